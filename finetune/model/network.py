"""A network: backbone, head and cut, with exactly the layers that learn set to learn."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune.errors import IntegrityError
from finetune.model.backbones import backbone as row_of
from finetune.model.backbones import features_cut, preprocessing_of
from finetune.model.base import build_base
from finetune.model.cut import between, find_cut, split
from finetune.model.heads import CLASSIFIER, HEADS, add_head, is_of_head, join_cuts
from finetune.model.mirror import mirrored
from finetune.model.precision import computing_in
from finetune.model.preprocessing import Preprocessing
from finetune.model.saved import with_classifier
from finetune.model.weights import Loaded, load_weights


@dataclass(frozen=True)
class Network:
    """The whole model and what lies above the cut, which share their layers.

    ``base`` is the backbone as loaded; its last blocks may stand above all that the head takes.
    ``top`` names the backbone's last tensor, below the head; ``pool`` the head's pooling. Where the
    head takes several cuts, both name the tensor that joins them.
    """

    base: keras.Model
    whole: keras.Model
    tail: keras.Model
    cut: str
    top: str
    pool: str
    precision: str  # of the trunk as an engine runs it; the layers' own is float32
    loaded: Loaded
    preprocessing: Preprocessing
    initial: dict[str, list[np.ndarray]] = field(repr=False)  # layer that may learn -> its weights
    frozen: dict[str, str] = field(repr=False)  # digests of what must not move
    is_mirrored: bool = False  # what is saved and used also looks at each photo's mirror image
    copies: dict[tuple, keras.Model] = field(default_factory=dict, repr=False)
    archives: list[bytes] = field(default_factory=list, repr=False)  # see ``save``

    def parameters(self) -> dict[str, int]:
        """Numbers of weights: total, trainable, and on both sides of the cut."""
        total = self.whole.count_params()
        tail = self.tail.count_params()
        trainable = sum(int(np.prod(variable.shape)) for variable in self.tail.trainable_variables)
        return {"total": total, "tail": tail, "trunk": total - tail, "trainable": trainable}

    @property
    def final(self) -> keras.Model:
        """The whole model as it is saved and used."""
        return mirrored(self.whole) if self.is_mirrored else self.whole

    @property
    def features(self) -> int:
        """Length of the pooled features of a photo."""
        return int(self.whole.get_layer(self.pool).output.shape[-1])

    @property
    def widths(self) -> list[int]:
        """How many of the features come from each cut."""
        pooled = self.whole.get_layer(self.pool)
        joined = pooled.input if isinstance(pooled.input, list) else [pooled.output]
        return [int(tensor.shape[-1]) for tensor in joined]

    def tensor(self, cut: str) -> keras.KerasTensor:
        """The tensor of a cut below any head on this backbone; of joined ones, too.

        Raises:
            UsageError: no such cut.
        """
        pool, *features = cut.split("-")
        if features and pool in HEADS:
            return join_cuts(self.base, pool, features)
        return find_cut(self.base, cut)

    def part(self, source: str, target: str) -> keras.Model | None:
        """What lies between two cuts; None if both are the same."""
        return between(self.whole, source, target)

    def head(self) -> keras.Model:
        """Pooled features -> probabilities."""
        return split(self.whole, self.pool).tail

    def set_classifier(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Give the linear classifier its weights: (features, classes) and (classes,)."""
        self.whole.get_layer(CLASSIFIER).set_weights([kernel, bias])

    def save(self, path: Path, only_classifier: bool = False) -> None:
        """Save the whole model as a ``.keras`` file.

        With ``only_classifier`` nothing but a linear classifier has changed since the last such
        call, whose file is then written again with its weights: of DenseNet121 Keras takes a
        second.
        """
        if only_classifier and self.archives:
            kernel, bias = self.whole.get_layer(CLASSIFIER).get_weights()
            path.write_bytes(with_classifier(self.archives[0], kernel, bias))
            return
        self.final.save(path)
        if only_classifier:
            self.archives.append(path.read_bytes())

    def trained_copy(self, precision: str, seed: int, strategy: Any = None) -> keras.Model:
        """The tail that is trained: itself in float32 on one device, else a copy, kept, with its
        weights.

        Args:
            precision: that it computes in.
            seed: of its dropout.
            strategy: ``tf.distribute.Strategy`` in whose scope the copy is made.
        """
        devices = strategy.num_replicas_in_sync if strategy else 1
        if precision == "float32" and devices == 1:
            return self.tail
        key = (precision, devices)
        with strategy.scope() if devices > 1 else nullcontext():
            if key not in self.copies:
                self.copies[key] = computing_in(self.tail, precision)
            copy = self.copies[key]
            copy.set_weights(self.tail.get_weights())
            draw_dropout(copy, seed)
        return copy

    def reset(self, seed: int) -> None:
        """Back to before training: the backbone as loaded, the head drawn from the seed."""
        for name, weights in self.initial.items():
            self.whole.get_layer(name).set_weights(weights)
        draw_head(self.whole, seed)


def build_network(
    backbone: str,
    image_size: int,
    classes: int,
    *,
    weights: str,
    alpha: float = 1.0,
    preprocessing: str = "backbone",
    pool: str,
    hidden: int | Sequence[int] = 0,
    dropout: float = 0.0,
    features: Sequence[str] = (),
    cut: str,
    batchnorm: str = "frozen",
    precision: str = "float32",
    is_mirrored: bool = False,
    seed: int = 0,
) -> Network:
    """Build, load and freeze.

    Args:
        backbone: a name of ``known_backbones``.
        image_size: side of the square photos in pixels.
        classes: number of classes.
        weights: ``imagenet``, ``random`` or a file, see ``load_weights``.
        alpha: width multiplier, see ``backbones.backbone``.
        preprocessing: ``backbone`` or ``scale-only``, see ``build_base``.
        pool, hidden, dropout, features: of the head, see ``add_head``.
        cut: name of the cut below everything that learns.
        batchnorm: see ``freeze``.
        precision: what the trunk is run in; the layers' weights and arithmetic are float32.
        is_mirrored: whether the model that is saved also looks at each photo's mirror image.
        seed: of the head's first weights.

    Raises:
        DataError, IntegrityError: the weights, see ``load_weights``.
    """
    keras.utils.clear_session()  # names and memory of earlier networks in this process
    keras.utils.disable_interactive_logging()  # which clear_session turned on; it goes to stdout
    keras.utils.set_random_seed(seed)
    base = build_base(backbone, image_size, alpha=alpha, preprocessing=preprocessing)
    loaded = load_weights(base, backbone, weights, alpha, preprocessing)
    pixels = preprocessing_of(backbone, weights, preprocessing)
    whole = add_head(base, classes, pool, hidden, dropout, features)
    draw_head(whole, seed)
    tail = split(whole, cut).tail
    freeze(whole, tail, batchnorm)
    of_base = {layer.name for layer in base.layers}
    learning = [layer for layer in tail.layers if layer.weights and layer.name in of_base]
    initial = {layer.name: layer.get_weights() for layer in learning}
    top, pooled = row_of(backbone).blocks[-1], pool
    if features:
        top = pooled = features_cut(pool, features)
    frozen = frozen_digests(whole)
    parts = (base, whole, tail, cut, top, pooled, precision, loaded, pixels, initial, frozen)
    return Network(*parts, is_mirrored)


def draw_head(whole: keras.Model, seed: int) -> None:
    """Draw the head's weights (Glorot uniform, biases 0) and the state of its dropout from a seed.

    So they are a function of the seed alone, whatever was built or trained before.
    """
    generator = np.random.default_rng(seed)
    for layer in whole.layers:
        if is_of_head(layer.name):
            rows, columns = layer.kernel.shape
            limit = np.sqrt(6 / (rows + columns))
            kernel = generator.uniform(-limit, limit, (rows, columns)).astype(np.float32)
            layer.set_weights([kernel, np.zeros(columns, np.float32)])
    draw_dropout(whole, seed)


def draw_dropout(model: keras.Model, seed: int) -> None:
    """Set the state of every dropout layer as a function of the seed."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([seed, 0])


def freeze(whole: keras.Model, tail: keras.Model, batchnorm: str) -> None:
    """Let the tail learn and nothing else; must come before ``compile``, which reads the flags.

    BatchNorm layers of the tail stay frozen unless ``batchnorm`` is "train": a few hundred photos
    in small batches are too few to estimate its statistics again. In Keras 3 calling a model with
    ``training=False`` does not protect them under ``fit``; ``trainable = False`` on the layer does.
    """
    for layer in whole.layers:
        layer.trainable = False
    for layer in tail.layers:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name != "preprocess" and not (is_norm and batchnorm == "frozen")


def frozen_digests(whole: keras.Model) -> dict[str, str]:
    """sha256 of every weight and statistic of the layers that must not move, by path."""
    return {
        variable.path: hashlib.sha256(np.ascontiguousarray(variable.numpy()).data).hexdigest()
        for layer in whole.layers
        if not layer.trainable
        for variable in layer.weights
    }


def audit(whole: keras.Model, before: dict[str, str]) -> dict[str, int]:
    """Prove that nothing frozen has moved.

    Returns:
        ``frozen``: how many variables were compared, ``moved``: 0.

    Raises:
        IntegrityError: naming what moved.
    """
    after = frozen_digests(whole)
    moved = [path for path in before if after.get(path) != before[path]]
    if moved:
        raise IntegrityError(
            f"Freeze audit: {len(moved)} of {len(before)} frozen variables changed during "
            "training, "
            f"first {', '.join(moved[:3])}. The result was not saved, because it is not what the "
            "recipe says."
        )
    return {"frozen": len(before), "moved": 0}
