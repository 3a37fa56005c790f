"""What a fit draws: activations and labels, in an order that a resumed run repeats."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from finetune.training.mixing import Mix

# (batches of indices of photos, epoch) -> their activations, batch by batch: a reader can work
# ahead
Read = Callable[[Sequence[np.ndarray], int], Iterator[np.ndarray]]

# Keras draws so many batches to learn their shapes, and then draws them again
# (NUM_BATCHES_FOR_TENSOR_SPEC of its data_adapter_utils): they are kept, for fresh views would be
# computed twice.
_PEEKED = 2


class Batches(keras.utils.PyDataset):
    """Activations and labels, every photo once per epoch, the last batch as small as it comes out;
    or, balanced, as many photos, each class equally often.

    The order is a function of (seed, epoch) and of nothing else, so that a resumed run sees the
    same batches. Keras reads ahead: its tf.data pipeline draws, and thereby reads and casts, the
    next batches while one trains; the batch dimension of its signature is open, so that a smaller
    last batch needs no second trace.

    Several devices get equal parts of a batch: it is filled up with blank rows of weight 0, and the
    weights of the others make up for them, so that the gradient is that of the photos alone.

    Args:
        read: called with arrays of int indices and the epoch (from 0); yields rows for each.
        labels: int (n,), or targets float32 (n, classes).
        batch_size: photos per batch.
        seed: of the order; None keeps the photos in order.
        weights: of each photo in the loss, float32 (n,); None if they are equal.
        balanced: whether every class is shown equally often in an epoch.
        devices: number of equal parts that a batch is cut into.
        mix: mixes the photos of each batch; ``labels`` are then targets float32 (n, classes).

    Attributes:
        epoch: whose batches are given, from 0; ``fit`` sets it (Keras's own ``on_epoch_end`` is
            called once more than there are epochs).
    """

    def __init__(
        self,
        read: Read,
        labels: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        weights: np.ndarray | None = None,
        balanced: bool = False,
        devices: int = 1,
        mix: Mix | None = None,
    ):
        super().__init__()
        self.epoch = 0
        self._read = read
        self._labels = labels
        self._size = batch_size
        self._seed = seed
        self._weights = weights
        self._balanced = balanced
        self._devices = devices
        self._mix = mix
        self._rows: Iterator[np.ndarray] = iter(())
        self._next: tuple[int, int] | None = None  # (epoch, batch) that ``_rows`` yields next
        self._peeked: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return math.ceil(len(self._labels) / self._size)

    @property
    def has_soft_labels(self) -> bool:
        """Whether labels are shares of all classes, (n, classes), and not indices, (n,)."""
        return self._labels.ndim == 2

    def __getitem__(self, batch: int) -> tuple[np.ndarray, ...]:
        order = self._order()
        indices = order[batch * self._size : (batch + 1) * self._size]
        rows = self._draw(batch, order)
        # stored float16 must not make the tail compute in float16
        floats = rows.astype(np.float32) if rows.dtype == np.float16 else rows
        labels = self._labels[indices]
        weights = None if self._weights is None else self._weights[indices]
        if self._mix:
            ones = np.ones(len(indices), np.float32)
            draw = np.random.default_rng([self._seed or 0, self.epoch, batch])
            own = ones if weights is None else weights
            floats, labels, weights = self._mix(floats, labels, own, draw)
        if self._devices > 1:
            return self._filled_up(floats, labels, weights)
        return floats, labels, *(() if weights is None else (weights,))

    def _filled_up(
        self, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
    ) -> tuple[np.ndarray, ...]:
        """A batch of a multiple of the devices, with its weights.

        Keras divides the loss of a batch by its rows, blank ones too; ``photo_metrics`` do not.
        """
        more = -len(rows) % self._devices
        scale = (len(rows) + more) / len(rows)
        scaled = np.full(len(rows), scale, np.float32) * (1 if weights is None else weights)

        def filled(values: np.ndarray) -> np.ndarray:
            return np.pad(values, [(0, more)] + [(0, 0)] * (values.ndim - 1))

        return filled(rows), filled(labels), filled(scaled.astype(np.float32))

    def _draw(self, batch: int, order: np.ndarray) -> np.ndarray:
        place = (self.epoch, batch)
        if place in self._peeked:
            return self._peeked.pop(place)
        if self._next != place:
            starts = range(batch * self._size, len(order), self._size)
            rest = [order[start : start + self._size] for start in starts]
            self._rows = self._read(rest, self.epoch)
            self._peeked = {}
        rows = next(self._rows)
        self._next = (self.epoch, batch + 1)
        if batch < _PEEKED:
            self._peeked[place] = rows
        return rows

    def _order(self) -> np.ndarray:
        if self._seed is None:
            return np.arange(len(self._labels))
        draw = np.random.default_rng([self._seed, self.epoch])
        return shuffled(self._labels, draw, self._balanced)


def shuffled(labels: np.ndarray, draw: np.random.Generator, balanced: bool) -> np.ndarray:
    """Indices of the photos of an epoch in random order; arguments as for ``Batches``."""
    if not balanced:
        return draw.permutation(len(labels))
    return balanced_order(labels if labels.ndim == 1 else labels.argmax(axis=1), draw)


def balanced_order(labels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """As many indices as labels, each class equally often, in random order.

    A rare class shows all its photos before any of them comes again; of a frequent one other photos
    are left out in every epoch.

    Args:
        labels: int (n,).
        draw: where randomness comes from.
    """
    classes = np.unique(labels)
    shares = np.array_split(np.arange(len(labels)), len(classes))
    picked = [
        np.resize(draw.permutation(np.flatnonzero(labels == label)), len(share))
        for label, share in zip(draw.permutation(classes), shares, strict=True)
    ]
    return draw.permutation(np.concatenate(picked))


def repeats(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """How often each index has come before, batch by batch."""
    seen: Counter[int] = Counter()
    found = []
    for indices in batches:
        times = []
        for index in indices.tolist():
            times.append(seen[index])
            seen[index] += 1
        found.append(np.array(times, int))
    return found


def read_views(views: Sequence[Any]) -> Read:
    """Rows of stored views: each photo shows one view per epoch, and all of them in turn.

    A photo that comes again within an epoch shows the next view.

    Args:
        views: sources of rows (arrays or ``store.Rows``), all in the same order of photos; the
            first is without augmentation.
    """

    dtype = np.result_type(*(view.dtype for view in views))  # one may be stored as float32

    def read(batches: Sequence[np.ndarray], epoch: int) -> Iterator[np.ndarray]:
        for indices, times in zip(batches, repeats(batches), strict=True):
            chosen = (indices + epoch + times) % len(views)
            out = np.empty((len(indices), *views[0].shape[1:]), dtype)
            for number, view in enumerate(views):
                if (chosen == number).any():
                    out[chosen == number] = view[indices[chosen == number]]
            yield out

    return read
