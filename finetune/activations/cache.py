"""Activations of photos at a cut: read where they are stored, computed and stored where not."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune.activations.engine import Engine, compile_graph, compile_trunk, resolve_precision
from finetune.activations.extract import Bad, extract
from finetune.activations.store import Rows, Store, entry_fields, row_name
from finetune.data.photos import Photo, Pixels, chunks, read_photos, through
from finetune.errors import DataError
from finetune.files import cache_dir, commit_text
from finetune.model.backbones import INPUT
from finetune.model.cut import find_cut
from finetune.model.heads import pool_maps
from finetune.model.ir import Artefact
from finetune.model.network import Network
from finetune.model.quantize import find_quantized, quantized
from finetune.progress import SILENT, Reporter

_CHUNK = 32
_FEATURE_BYTES = 2**30  # pooled features that are kept in memory


def open_entry(fields: dict, dtype: str, root: Path | None = None) -> Store:
    """The cache entry of these fields; float32 where float16 is known not to hold its values."""
    store = Store(root or cache_dir(), fields, dtype)
    is_too_narrow = (store.folder / _OVERFLOW).exists()
    return Store(root or cache_dir(), fields, "float32") if is_too_narrow else store


_OVERFLOW = "overflow.txt"


class ActivationCache:
    """The stored activations of one backbone and one way of loading photos.

    Args:
        backbone: its name.
        network: whose frozen part is computed.
        pixels: how photos are loaded; ``augment`` makes the views above 0.
        dtype: of the stored rows.
        engine: see ``compile_trunk``.
        reporter: of progress; may be replaced.

    Attributes:
        bad: photos that could not be decoded, with the reason, since the list was last taken.
        computed: how many rows were computed.
        calibration: training photos, for whoever has to make an int8 trunk.
    """

    def __init__(
        self,
        backbone: str,
        network: Network,
        pixels: Pixels,
        dtype: str = "float16",
        engine: str = "auto",
        reporter: Reporter = SILENT,
    ):
        self.network = network
        self.reporter = reporter
        self.bad: Bad = []
        self.computed = 0
        self.calibration: Sequence[Photo] = ()
        self._is_calibrated = False
        self._backbone = backbone
        self._pixels = pixels
        self._dtype = dtype
        self._engine = engine
        self._entries: dict[tuple[str, bool], Store] = {}
        self._engines: dict[tuple[str, str], Engine] = {}
        self._features: dict[tuple, np.ndarray] = {}

    def begin(self, reporter: Reporter) -> None:
        """Another trial: nothing is computed or bad yet, and other processes may have added
        rows.
        """
        self.reporter = reporter
        self.bad = []
        self.computed = 0
        for store in self._entries.values():
            store.refresh()

    def pixels(self, view: int) -> Pixels:
        """How the photos of a view are loaded."""
        return self._pixels if view else Pixels(self._pixels.size, self._pixels.resize)

    def entry(self, cut: str, view: int = 0) -> Store:
        """The one open store of a cut, and of its views."""
        key = (cut, view > 0)
        if self.network.precision == "int8" and self.calibration and not self._is_calibrated:
            self._entries.clear()  # those of a trunk that was still to be made
            self._is_calibrated = True
        if key not in self._entries:
            precision = self._trunk_precision(cut)
            fields = self._fields(cut, precision, view)
            self._entries[key] = open_entry(fields, "uint8" if cut == INPUT else self._dtype)
        return self._entries[key]

    def missing(self, photos: Sequence[Photo], cut: str, view: int = 0) -> int:
        """How many rows of these photos would have to be computed."""
        return len(self.entry(cut, view).missing(_names(photos, view)))

    def row_bytes(self, cut: str, view: int = 0) -> int:
        """Size of one stored row."""
        values = int(np.prod(find_cut(self.network.whole, cut).shape[1:]))
        return values * self.entry(cut, view).dtype.itemsize

    def rows(self, photos: Sequence[Photo], cut: str, view: int = 0) -> Rows:
        """The activations of photos at a cut, in their order; what is missing is computed.

        Bad photos have no row, and are added to ``bad``.

        Raises:
            DataError, IntegrityError, BusyError: see ``extract``.
        """
        store = self.entry(cut, view)
        label = f"activations at {cut}" + (f", view {view}" if view else "")
        try:
            found = extract(
                store,
                photos,
                view,
                self.pixels(view),
                lambda: self.engine(INPUT, cut),
                self.row_bytes(cut, view),
                label,
                self.reporter,
            )
        except OverflowError as error:
            commit_text(store.folder / _OVERFLOW, f"{error}\n")
            self.reporter.warn(f"{error}: these activations are stored as float32.")
            del self._entries[cut, view > 0]
            return self.rows(photos, cut, view)
        self.computed += found.computed
        self.bad += found.bad
        bad = {photo.sha256 for photo, _ in found.bad}
        good = [photo for photo in photos if photo.sha256 not in bad]
        return store.rows(_names(good, view))

    def engine(self, source: str, target: str) -> Engine:
        """What lies between two cuts, ready to run; compiled once."""
        if (source, target) not in self._engines:
            self._engines[source, target] = self._compiled(source, target)
        return self._engines[source, target]

    def _compiled(self, source: str, target: str) -> Engine:
        precision = self.network.precision
        if precision == "int8" and source == INPUT != target:
            return compile_graph(self._int8_trunk(target).graph([target]), precision)
        own = resolve_precision("auto", self._engine) if precision == "int8" else precision
        return compile_trunk(self.network.part(source, target), self._engine, own)

    def _trunk_precision(self, cut: str) -> str:
        """What enters the key: an int8 trunk is another one for other calibration photos."""
        if self.network.precision != "int8" or cut == INPUT:
            return self.network.precision
        if self.calibration:
            return f"int8 {self._int8_trunk(cut).digest}"
        made = find_quantized(cache_dir(), self._trunk_fields(), cut)
        return f"int8 {made.digest if made else 'to be made'}"

    def _int8_trunk(self, cut: str) -> Artefact:
        def build(cuts: Sequence[str]) -> keras.Model:
            outputs = [find_cut(self.network.whole, name) for name in cuts]
            return keras.Model(self.network.whole.input, outputs)

        def photos() -> Iterator[np.ndarray]:
            stream = read_photos(self.pixels(0), self.calibration)
            good = (found for _, found in stream if not isinstance(found, str))
            yield from (np.stack(chunk) for chunk in chunks(good, _CHUNK))

        return quantized(cache_dir(), self._trunk_fields(), [cut], build, photos)[cut]

    def _fields(self, cut: str, precision: str, view: int) -> dict[str, Any]:
        network = self.network
        return entry_fields(
            self._backbone,
            network.loaded.digest,
            cut,
            precision,
            self.pixels(view),
            network.preprocessing,
        )

    def _trunk_fields(self) -> dict[str, Any]:
        plain = self._fields("", "float32", 0)
        kept = ("backbone", "weights", "preprocessing")
        return {name: plain[name] for name in kept} | {"image_size": self._pixels.size}

    def features(self, photos: Sequence[Photo], cut: str, view: int = 0) -> np.ndarray:
        """Pooled features of the frozen backbone, from rows stored at a cut: float32 (n, d).

        Kept in memory, so that a further head costs no reading.
        """
        key = (self.entry(cut, view).key, self.network.pool, *_names(photos, view))
        if key not in self._features:
            batches = self.rows(photos, cut, view).batches(_CHUNK)
            maps = self.engine(cut, self.network.top)(batches)
            pooled = np.concatenate([pool_maps(batch, self.network.pool) for batch in maps])
            if sum(kept.nbytes for kept in self._features.values()) > _FEATURE_BYTES:
                self._features.clear()
            self._features[key] = pooled
        return self._features[key]

    def stream(
        self, photos: Sequence[Photo], keys: Sequence[str], cut: str, size: int
    ) -> Iterator[np.ndarray]:
        """Activations of fresh views, never stored: arrays of ``size`` rows, the last may be
        smaller.

        Raises:
            DataError: a photo can no longer be decoded.
        """
        stream = read_photos(self._pixels, photos, keys)
        for chunk in chunks(through(self.engine(INPUT, cut), stream, size), size):
            lost = [(photo, row) for photo, row in chunk if isinstance(row, str)]
            if lost:
                raise DataError(f"{lost[0][0]} can no longer be decoded: {lost[0][1]}.")
            yield np.stack([row for _, row in chunk if not isinstance(row, str)])


def _names(photos: Sequence[Photo], view: int) -> list[str]:
    return [row_name(photo.sha256, view) for photo in photos]
