"""A classifier that was saved, opened for use: its model, its classes, how it wants its photos."""

import json
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.backend import load_keras
from finetune.data.photos import RESIZE_MODES, SUFFIXES, Item, Pixels, read_photos, through
from finetune.errors import BusyError, DataError, IntegrityError, UsageError
from finetune.files import READ_ONLY
from finetune.progress import SILENT, Reporter
from finetune.recipe.reading import reopen
from finetune.recipe.recipe import Recipe
from finetune.runs.folder import RESULT, checked
from finetune.runs.hub import fetch, is_address
from finetune.runs.ir import has_ir, open_ir, write_ir

if TYPE_CHECKING:
    import keras

    from finetune.activations.engine import Engine

_MAX_BYTES = 2**20  # of classes.json and input.json; the names of 20,000 classes fit


class Classifier:
    """A run folder or a bare model file, open for use; what is compiled for it stays with it.

    A run's network is opened without TensorFlow where the run has left it as OpenVINO IR; Keras is
    imported when ``model`` is first asked for.

    Attributes:
        path: what was opened.
        classes: names, in the order of the model's outputs.
        image_size: side of the square photos in pixels.
        resize: how a photo becomes a square, see ``data.photos.decode``.
        recipe: of the run folder; None for a bare model.
        computed_in: the precision of its recipe, or that its ``input.json`` names.
    """

    def __init__(
        self,
        path: Path,
        classes: Sequence[str],
        image_size: int,
        resize: str,
        recipe: Recipe | None = None,
        model: "keras.Model | None" = None,
        computed_in: str = "auto",
    ):
        self.path = path
        self.classes = tuple(classes)
        self.image_size = image_size
        self.resize = resize
        self.recipe = recipe
        self.computed_in = recipe.precision if recipe else computed_in
        self._model = model
        self._engines: dict[str, Engine] = {}

    def __repr__(self) -> str:
        return f"Classifier({str(self.path)!r}, {len(self.classes)} classes)"

    @classmethod
    def open(cls, path: str | PathLike[str]) -> "Classifier":
        """Open a run folder, or a ``.keras`` file.

        The classes of a bare file are in ``classes.json`` beside it, or are numbered. The file of a
        run stands for its folder, where it says how it wants its photos.

        Raises:
            DataError: there is no finished run, or no such file.
            IntegrityError: the model is damaged, takes no photos, or has another number of outputs
                than classes.
        """
        path = Path(path)
        if path.name == "model.keras" and (path.parent / "recipe.yaml").exists():
            path = path.parent
        folder = path if path.is_dir() else path.parent
        file = path / "model.keras" if path.is_dir() else path
        if not path.exists():
            raise DataError(f"{path} does not exist. Give a run folder, or a .keras file.")
        if path.is_file() and path.suffix.lower() in SUFFIXES:
            raise DataError(
                f"{path} is a photo, and no model: the arguments look swapped. The run comes "
                "first, as in `finetune predict RUN PHOTO`."
            )
        if not file.exists():
            raise DataError(
                f"{path} holds no model.keras. Give the folder of a finished `finetune run`, or a "
                ".keras file."
            )
        names, recipe = folder / "classes.json", folder / "recipe.yaml"
        if path.is_dir():
            checked(path, "classes.json", "recipe.yaml", "input.json")
        if path.is_dir() and recipe.exists() and not (path / RESULT).exists():
            how = f"Go on with `finetune run --resume {path}`."
            raise DataError(f"{path} is no finished run: it holds no {RESULT}. {how}")
        if path.is_dir() and recipe.exists() and names.exists():
            made_by = reopen(recipe)
            return cls(path, _names(names), made_by.image_size, made_by.resize, made_by)
        model = _load(file)
        outputs = _outputs(model, file)
        classes = _names(names) if names.exists() else tuple(map(str, range(outputs)))
        _check_outputs(outputs, classes, file)
        size = model.inputs[0].shape[1]
        resize, computed_in = _described(folder / "input.json")
        return cls(path, classes, size, resize, None, model, computed_in)

    @property
    def model(self) -> "keras.Model":
        """uint8 photos (n, image_size, image_size, 3) RGB -> probabilities; imports Keras."""
        if self._model is None:
            file = self.path / "model.keras"
            model = _load(file)
            _check_outputs(_outputs(model, file), self.classes, file)
            self._model = model
        return self._model

    def index(self, name: str) -> int:
        """The output of a class; UsageError if there is no such class."""
        if name not in self.classes:
            known = ", ".join(self.classes[:20])
            raise UsageError(f"{self.path} knows no class '{name}'; it knows {known}.")
        return self.classes.index(name)

    def predict(
        self, batches: Iterable[np.ndarray], precision: str = "auto"
    ) -> Iterator[np.ndarray]:
        """Probabilities of photos, batch by batch: uint8 (n, size, size, 3) to float32 (n,
        classes).

        A model with one sigmoid output gives two columns.

        Raises:
            IntegrityError: the model's outputs are no probabilities of its classes.
        """
        for outputs in self._engine(precision)(batches):
            rows = two_columns(outputs)
            _check_outputs(rows.shape[1], self.classes, self.path)
            yield _checked(rows, self.path)

    def score(
        self, photos: Iterable[Item], precision: str = "auto"
    ) -> Iterator[tuple[Item, np.ndarray | str]]:
        """Probabilities of photos as one stream, each decoded once and as in training.

        Yields:
            (photo, float32 (classes,)), or (photo, reason) of one that cannot be decoded, in order.

        Raises:
            IntegrityError: as ``predict``.
        """
        from finetune.activations.engine import batch_size

        def engine(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            return self.predict(batches, precision)

        stream = read_photos(Pixels(self.image_size, self.resize), photos)
        return through(engine, stream, batch_size())

    def precision(self, wanted: str) -> str:
        """``auto`` is float32 for a run in float32, whose backbone may need it."""
        is_float32 = self.computed_in == "float32"
        return "float32" if wanted == "auto" and is_float32 else wanted

    def _engine(self, precision: str) -> "Engine":
        """The network, converted and compiled once for each precision."""
        precision = self.precision(precision)
        if precision not in self._engines:
            compiled = open_ir(self.path, precision) if self.has_ir() else None
            self._engines[precision] = compiled or self._compiled(precision)
        return self._engines[precision]

    def has_ir(self) -> bool:
        """Whether the network is there as IR, made now if it is missing beside a run's model."""
        if self.recipe is None:
            return False
        checked(self.path, "model.keras")
        if has_ir(self.path):
            return True
        from finetune.activations.engine import resolve_engine

        model = self.model
        if resolve_engine() != "openvino":
            return False
        shape = (2, *model.inputs[0].shape[1:])
        photos = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        try:
            write_ir(model, self.path, photos)
        except (BusyError, IntegrityError, RuntimeError):  # a full disk, or beyond OpenVINO
            return False
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            return False
        return True

    def _compiled(self, precision: str) -> "Engine":
        model = self.model
        import keras

        from finetune.activations.engine import compile_trunk, resolve_precision

        # OpenVINO cannot read the shapes of a Sequential.
        whole = keras.Model(model.inputs[0], model.outputs[0])
        engine = compile_trunk(whole, precision=resolve_precision(precision))
        dtype = model.inputs[0].dtype
        return lambda batches: engine(batch.astype(dtype) for batch in batches)


def opened(model: str | PathLike[str] | Classifier, reporter: Reporter = SILENT) -> Classifier:
    """The classifier itself, or the one at a path or on the hub, see ``Classifier.open``."""
    if isinstance(model, Classifier):
        return model
    return Classifier.open(fetch(model, reporter) if is_address(model) else model)


def two_columns(outputs: np.ndarray) -> np.ndarray:
    """One probability p of the second class as the columns 1 - p and p; more columns stay."""
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


def _load(file: Path) -> "keras.Model":
    if file.name == "model.keras":
        checked(file.parent, file.name)
    load_keras()
    from finetune.model.saved import load_model

    return load_model(file)


def _names(file: Path) -> tuple[str, ...]:
    names = _read_json(file)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise IntegrityError(f"{file} is no list of class names. Copy it again from its run.")
    return tuple(names)


def _check_outputs(outputs: int, classes: Sequence[str], model: Path) -> None:
    if len(classes) != outputs:
        raise IntegrityError(
            f"classes.json names {len(classes)} classes, and {model} has {outputs} outputs."
        )


def _described(file: Path) -> tuple[str, str]:
    """Resize and precision that ``input.json`` names, as no single recipe made the model."""
    if not file.exists():
        return RESIZE_MODES[0], "auto"
    value = _read_json(file)
    if not isinstance(value, dict) or value.get("resize") not in RESIZE_MODES:
        allowed = ", ".join(RESIZE_MODES)
        raise IntegrityError(f"{file} names no resize; allowed are {allowed}.")
    return value["resize"], "float32" if value.get("precision") == "float32" else "auto"


def _read_json(file: Path) -> Any:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{file} cannot be read: {error}. Copy it again from its run."
        ) from error


def _outputs(model: "keras.Model", file: Path) -> int:
    """Number of classes of a model that takes square RGB photos."""
    shapes: Sequence = [tensor.shape for tensor in (*model.inputs, *model.outputs)]
    fits = len(shapes) == 2 and len(shapes[0]) == 4 and len(shapes[1]) == 2
    if not fits or shapes[0][1] != shapes[0][2] or shapes[0][1] is None or shapes[0][3] != 3:
        raise IntegrityError(
            f"{file} maps {shapes[:-1]} to {shapes[-1:]}; allowed are models from photos "
            "(n, size, size, 3) to (n, classes)."
        )
    return max(2, shapes[1][1])


def _checked(rows: np.ndarray, path: Path) -> np.ndarray:
    totals = rows.sum(axis=1)
    if not (np.all(rows >= 0) and np.all(np.abs(totals - 1) < 1e-3)):  # NaN fails, too
        raise IntegrityError(
            f"{path} gives values from {rows.min():g} to {rows.max():g} with sums from "
            f"{totals.min():g} to {totals.max():g}, which are no probabilities. Its last layer "
            "must be a softmax, or a sigmoid of one unit."
        )
    return rows
