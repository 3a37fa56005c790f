"""Activations of photos at a cut: read where they are stored, computed and stored where not."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from finetune.activations.engine import Engine
from finetune.activations.extract import Bad, extract
from finetune.activations.remote import remote_store
from finetune.activations.store import Rows, Store, row_name
from finetune.activations.trunk import Kept, Trunk
from finetune.data.photos import MIRRORED, Photo, Pixels, chunks, read_photos, through
from finetune.errors import BusyError, DataError
from finetune.files import cache_dir, digest_of, sync_folder
from finetune.model.backbones import INPUT
from finetune.model.backbones import backbone as row_of
from finetune.model.heads import pool_maps
from finetune.model.network import Network
from finetune.progress import SILENT, Reporter

_CHUNK = 32
_FEATURE_BYTES = 2**30  # pooled features that are kept in memory
_EXACT = 4  # sets of photos whose float32 activations are kept in memory


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
        kept: what trials share.

    Attributes:
        bad: photos that could not be decoded, with the reason, since the list was last taken.
        computed: how many rows were computed.
        trunk: what computes the rows.
    """

    def __init__(
        self,
        backbone: str,
        network: Network,
        pixels: Pixels,
        dtype: str = "float16",
        engine: str = "auto",
        reporter: Reporter = SILENT,
        kept: Kept | None = None,
    ):
        self.network = network
        self.reporter = reporter
        self.bad: Bad = []
        self.computed = 0
        self._is_calibrated = False
        self._backbone = backbone
        self._pixels = pixels
        self._dtype = dtype
        self._entries: dict[tuple[str, int], Store] = {}
        self._kept = kept or Kept()
        self._remote = remote_store()
        self.trunk = Trunk(backbone, network, self.pixels(0), engine, self._kept, reporter)

    def begin(self, reporter: Reporter) -> None:
        """Another trial: nothing is computed or bad yet, and other processes may have added
        rows.
        """
        self.reporter = reporter
        self.trunk.reporter = reporter
        self.bad = []
        self.computed = 0
        for store in self._entries.values():
            store.refresh()

    def pixels(self, view: int) -> Pixels:
        """How the photos of a view are loaded."""
        if view > 0:
            return self._pixels
        return Pixels(self._pixels.size, self._pixels.resize, is_mirrored=view == MIRRORED)

    def entry(self, cut: str, view: int = 0) -> Store:
        """The one open store of a cut, and of its views."""
        key = (cut, min(view, 1))
        if self.network.precision == "int8" and self.trunk.calibration and not self._is_calibrated:
            self._entries.clear()  # those of a trunk that was still to be made
            self._is_calibrated = True
        if key not in self._entries:
            fields = self.trunk.fields(cut, self.trunk.precision_key(cut), self.pixels(view))
            self._entries[key] = open_entry(fields, "uint8" if cut == INPUT else self._dtype)
        return self._entries[key]

    def missing(self, photos: Sequence[Photo], cut: str, view: int = 0) -> int:
        """How many rows of these photos would have to be computed."""
        store = self.entry(cut, view)
        names = store.missing(_names(photos, view))
        return len(names) - len(self._remote.holds(store, names) if names and self._remote else ())

    def row_bytes(self, cut: str, view: int = 0) -> int:
        """Size of one stored row."""
        values = int(np.prod(self.network.tensor(cut).shape[1:]))
        return values * self.entry(cut, view).dtype.itemsize

    def rows(
        self, photos: Sequence[Photo], cut: str, view: int = 0, in_parts: bool = False
    ) -> Rows:
        """The activations of photos at a cut, in their order; what is missing is computed.

        Bad photos have no row, and are added to ``bad``. ``in_parts`` is as for ``extract``.

        Raises:
            DataError, IntegrityError, BusyError: see ``extract``.
        """
        store = self.entry(cut, view)
        source = self._source(photos, cut, view)
        cuts = self._together(photos, cut, view) if source == INPUT else (cut,)
        label = f"activations at {' and '.join(cuts)}" + (f", view {view}" if view else "")
        try:
            found = extract(
                [self.entry(name, view) for name in cuts],
                photos,
                view,
                lambda wanted: self._read(wanted, source, view),
                lambda: self._tuples(source, cuts),
                sum(self.row_bytes(name, view) for name in cuts),
                label,
                self.reporter,
                in_parts,
                self._remote,
            )
        except OverflowError as error:
            for name in cuts:
                self._widen(name, view, error)
            return self.rows(photos, cut, view, in_parts)
        self.computed += found.computed
        self.bad += found.bad
        if self._remote:
            for name in cuts:
                self._remote.push(self.entry(name, view), _names(photos, view))
        bad = {photo.sha256 for photo, _ in found.bad}
        good = [photo for photo in photos if photo.sha256 not in bad]
        return store.rows(_names(good, view))

    def _widen(self, cut: str, view: int, error: OverflowError) -> None:
        """Store the rows of a cut as float32 from now on."""
        store = self.entry(cut, view)
        if store.dtype == np.float16:
            # Nothing but its name counts, so that no lock is needed: a commit would be, for whoever
            # holds the entry removes the temporary files of others.
            (store.folder / _OVERFLOW).touch()
            sync_folder(store.folder)
            self.reporter.warn(f"{error}: the activations at {cut} are stored as float32.")
            del self._entries[cut, min(view, 1)]

    def _together(self, photos: Sequence[Photo], cut: str, view: int) -> tuple[str, ...]:
        """The cuts that one pass stores: this one first, and others that lack rows that are
        wanted.
        """
        own = self.entry(cut, view).trunk_pass
        wanted = self._kept.together.get(min(view, 1), ())
        others = [name for name in wanted if name not in (cut, INPUT)]
        # an int8 trunk of another calibration is another pass
        same = [name for name in others if self.entry(name, view).trunk_pass == own]
        lacking = [name for name in same if cut != INPUT and self.missing(photos, name, view)]
        return (cut, *lacking)

    def _source(self, photos: Sequence[Photo], cut: str, view: int) -> str:
        """Where to compute a cut from: a stored lower one if that is exact, else the photos.

        float16 rows are rounded: what is stored would depend on what was stored before.
        """
        is_exact = self.network.precision == self._dtype == "float32"
        below = row_of(self._backbone).blocks if is_exact else ()
        for name in reversed(below[: below.index(cut)] if cut in below else ()):
            if not self.entry(name, view).missing(_names(photos, view)):
                return name
        return INPUT

    def _read(
        self, photos: Sequence[Photo], source: str, view: int
    ) -> Iterator[tuple[Photo, np.ndarray | str]]:
        if source == INPUT:
            keys = [f"stored/{photo.sha256}/{view}" if view > 0 else None for photo in photos]
            return read_photos(self.pixels(view), photos, keys)
        batches = self.entry(source, view).rows(_names(photos, view)).batches(_CHUNK)
        return zip(photos, chain.from_iterable(batches), strict=True)

    def _tuples(self, source: str, cuts: tuple[str, ...]) -> Engine:
        """An engine whose rows are tuples, one value for each cut."""
        engine = self.trunk.engine(source, *cuts)
        if len(cuts) == 1:
            return engine
        return lambda batches: ([*zip(*outputs, strict=True)] for outputs in engine(batches))

    def exact(self, photos: Sequence[Photo], cut: str, view: int = 0) -> np.ndarray:
        """Activations of a few photos at a cut in float32, whatever the network's precision is:
        (n, ...), kept in memory, and in the cache where it can be written.
        """
        fields = self.trunk.fields(cut, "float32", self.pixels(view))
        key = (digest_of(fields), *_names(photos, view))
        if key not in self._kept.exact:
            if len(self._kept.exact) == _EXACT:
                self._kept.exact.clear()
            try:
                self._kept.exact[key] = self._stored_exactly(fields, photos, cut, view)
            except (BusyError, DataError):  # a full or read-only disk costs seconds, not the run
                engine = self.trunk.engine(INPUT, cut, precision="float32")
                found = through(engine, read_photos(self.pixels(view), photos), _CHUNK)
                rows = [row for _, row in found if not isinstance(row, str)]
                self._kept.exact[key] = np.stack(rows)
        return self._kept.exact[key]

    def _stored_exactly(
        self, fields: dict, photos: Sequence[Photo], cut: str, view: int
    ) -> np.ndarray:
        store = open_entry(fields, "float32")
        row_bytes = int(np.prod(self.network.tensor(cut).shape[1:])) * 4
        extract(
            [store],
            photos,
            view,
            lambda wanted: read_photos(self.pixels(view), wanted),
            lambda: self.trunk.engine(INPUT, cut, precision="float32"),
            row_bytes,
            f"float32 activations at {cut}",
            SILENT,
        )
        names = _names(photos, view)
        bad = set(store.missing(names))
        rows = store.rows([name for name in names if name not in bad])
        return np.concatenate(list(rows.batches(_CHUNK)))

    def features(self, photos: Sequence[Photo], cut: str, view: int = 0) -> np.ndarray:
        """Pooled features of the frozen backbone, from rows stored at a cut: float32 (n, d).

        Kept in memory, so that a further head costs no reading.
        """
        key = (self.entry(cut, view).key, self.network.pool, *_names(photos, view))
        if key not in self._kept.features:
            batches = self.rows(photos, cut, view).batches(_CHUNK)
            maps = self.trunk.engine(cut, self.network.top)(batches)
            pooled = np.concatenate([pool_maps(batch, self.network.pool) for batch in maps])
            if sum(kept.nbytes for kept in self._kept.features.values()) > _FEATURE_BYTES:
                self._kept.features.clear()
            self._kept.features[key] = pooled
        return self._kept.features[key]

    def stream(
        self, photos: Sequence[Photo], keys: Sequence[str], cut: str, size: int
    ) -> Iterator[np.ndarray]:
        """Activations of fresh views, never stored: arrays of ``size`` rows, the last may be
        smaller.

        Raises:
            DataError: a photo can no longer be decoded.
        """
        stream = read_photos(self._pixels, photos, keys)
        for chunk in chunks(through(self.trunk.engine(INPUT, cut), stream, size), size):
            lost = [(photo, row) for photo, row in chunk if isinstance(row, str)]
            if lost:
                raise DataError(f"{lost[0][0]} can no longer be decoded: {lost[0][1]}.")
            yield np.stack([row for _, row in chunk if not isinstance(row, str)])


def _names(photos: Sequence[Photo], view: int) -> list[str]:
    return [row_name(photo.sha256, view) for photo in photos]
