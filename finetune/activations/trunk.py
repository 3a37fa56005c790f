"""Trunks ready to run: parts of a frozen network, compiled once in the precision wanted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import keras
import numpy as np

from finetune.activations.engine import (
    Engine,
    compile_graph,
    compile_trunk,
    open_trunk,
    resolve_precision,
)
from finetune.activations.store import entry_fields
from finetune.data.photos import Photo, Pixels, chunks, read_photos
from finetune.files import cache_dir, digest_of
from finetune.model.backbones import INPUT
from finetune.model.ir import Artefact, converted
from finetune.model.network import Network
from finetune.model.quantize import CALIBRATION_PHOTOS, find_quantized, quantized
from finetune.progress import Reporter, count

_CHUNK = 32
_ENGINES = 12  # that are kept in memory, each with its weights


@dataclass
class Kept:
    """What the trials of a process share in memory, whatever their heads and cuts are.

    Attributes:
        engines: compiled parts of frozen trunks.
        features: pooled features of photos.
        exact: float32 activations, see ``ActivationCache.exact``.
        together: of photos (0), of their views (1) and of mirrored photos the cuts at which some
            trial needs rows: one pass stores them all.
    """

    engines: dict[tuple, Engine] = field(default_factory=dict)
    features: dict[tuple, np.ndarray] = field(default_factory=dict)
    exact: dict[tuple, np.ndarray] = field(default_factory=dict)
    together: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


class Trunk:
    """What lies below the cuts of one network.

    Args:
        backbone: its name.
        network: whose frozen part it is.
        pixels: how photos are loaded, without views.
        engine: see ``compile_trunk``.
        kept: what trials share.
        reporter: told of what takes long; may be replaced.

    Attributes:
        calibration: training photos, for whoever has to make an int8 trunk.
    """

    def __init__(
        self,
        backbone: str,
        network: Network,
        pixels: Pixels,
        engine: str,
        kept: Kept,
        reporter: Reporter,
    ):
        self.calibration: Sequence[Photo] = ()
        self.reporter = reporter
        self._backbone = backbone
        self._network = network
        self._pixels = pixels
        self._engine = engine
        self._kept = kept

    def engine(self, source: str, *targets: str, precision: str | None = None) -> Engine:
        """What lies between a cut and others, ready to run; compiled once.

        Args:
            source: the cut below.
            targets: cuts above; of several the engine yields tuples.
            precision: in place of the network's.
        """
        precision = precision or self._network.precision
        key = (digest_of(self._fields()), self._engine, source, targets, precision)
        if key not in self._kept.engines:
            if len(self._kept.engines) >= _ENGINES:
                self._kept.engines.clear()
            self._kept.engines[key] = self._compiled(source, targets, precision)
        return self._kept.engines[key]

    def _compiled(self, source: str, targets: tuple[str, ...], precision: str) -> Engine:
        if (source,) == targets:
            return iter
        if precision == "int8" and source == INPUT:
            return compile_graph(self._int8(targets[0]).graph(targets), precision)
        own = resolve_precision("auto", self._engine) if precision == "int8" else precision
        if source == INPUT:
            fields = self._fields()
            return open_trunk(self._build, targets, fields, cache_dir(), self._engine, own)
        return compile_trunk(self._network.part(source, targets[0]), self._engine, own)

    def graph(self, cut: str, precision: str) -> Any:
        """The trunk as ``openvino.Model``, in float32 or int8."""
        if precision == "int8":
            return self._int8(cut).graph([cut])
        return converted(cache_dir(), self._fields(), [cut], self._build)

    def precision_key(self, cut: str) -> str:
        """What enters the key: an int8 trunk is another one for other calibration photos."""
        if self._network.precision != "int8" or cut == INPUT:
            return self._network.precision
        if self.calibration:
            return f"int8 {self._int8(cut).digest}"
        made = find_quantized(cache_dir(), self._fields(), cut)
        return f"int8 {made.digest if made else 'to be made'}"

    def _int8(self, cut: str) -> Artefact:
        def photos() -> Iterator[np.ndarray]:
            used = min(CALIBRATION_PHOTOS, len(self.calibration))
            self.reporter.say(
                f"int8 trunk: its scales are set from {count(used, 'training photo')}"
            )
            if used < CALIBRATION_PHOTOS:
                self.reporter.warn(
                    f"{count(used, 'photo')} are few for the scales of an int8 trunk, which is "
                    f"made once, from {CALIBRATION_PHOTOS} photos where there are so many; the "
                    "fidelity audit says what it costs."
                )
            # In the order of their contents: they are listed by class, and all classes are wanted.
            mixed = sorted(self.calibration, key=lambda photo: photo.sha256)
            stream = read_photos(self._pixels, mixed)
            good = (found for _, found in stream if not isinstance(found, str))
            yield from (np.stack(chunk) for chunk in chunks(good, _CHUNK))

        wanted = chain.from_iterable(self._kept.together.values())
        cuts = [name for name in dict.fromkeys([cut, *wanted]) if name != INPUT]
        return quantized(cache_dir(), self._fields(), cuts, self._build, photos, self._waits)[cut]

    def _waits(self) -> None:
        self.reporter.say("another process makes the int8 trunk: waiting for it")

    def _build(self, cuts: Sequence[str]) -> keras.Model:
        outputs = [self._network.tensor(name) for name in cuts]
        return keras.Model(self._network.base.input, outputs)

    def fields(self, cut: str, precision: str, pixels: Pixels) -> dict[str, Any]:
        """Those of the cache entry of a cut, see ``entry_fields``."""
        network = self._network
        weights = network.loaded.digest
        return entry_fields(self._backbone, weights, cut, precision, pixels, network.preprocessing)

    def _fields(self) -> dict[str, Any]:
        plain = self.fields("", "float32", self._pixels)
        kept = ("backbone", "weights", "preprocessing")
        return {name: plain[name] for name in kept} | {"image_size": self._pixels.size}
