"""Photos to test a classifier on: labelled by its classes, never split, in any number."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune.data.class_folders import listed, near, open_folder
from finetune.data.dataset import Dataset
from finetune.data.splits import SPLITS
from finetune.errors import DataError, UsageError

_LABELLED = (
    "Needed: class folders of photos, named like the model's classes, either directly in it or in "
    "the folder of a split, test/ for one (others: --split)."
)


def read_labelled(
    root: Path, classes: Sequence[str], split: str | None = None, name: str | None = None
) -> Dataset:
    """Read a folder of photos to test a classifier on: nothing is split, any number will do.

    Args:
        root: holds either split folders of class folders, of which one is read, or class folders,
            which are all read.
        classes: the classifier's, in its order; labels are indexes into them.
        split: one of ``SPLITS``, or ``all``; test if missing.
        name: the data set's name; the folder's own name if missing.

    Returns:
        The photos by split, class and file; ``split`` is "" for those of a folder without splits.

    Raises:
        UsageError: a split of a folder that has none.
        DataError: no photos, or photos of classes that are unknown.
    """
    reading = open_folder(root, _LABELLED)
    folders = reading.class_folders(SPLITS if split == "all" else (split or "test",))
    others = sorted({class_name for _, class_name in folders} - set(classes))
    photos = reading.read(folders, [*classes, *others])
    name = name or root.resolve().name
    known = Dataset(name, root, (*classes, *others), tuple(photos), dict(+reading.ignored))
    return labelled(known, classes, split, reading.problems, _LABELLED)


def labelled(
    dataset: Dataset,
    classes: Sequence[str],
    split: str | None,
    problems: Sequence[str],
    needed: str,
) -> Dataset:
    """A data set as it was read -> one to test a classifier on, see ``read_labelled``.

    Args:
        dataset: its classes are ``classes`` and then those that the classifier does not know.
        classes: the classifier's.
        split: as for ``read_labelled``; the photos are of it already.
        problems: what is wrong already.
        needed: the end of the message.
    """
    root = dataset.root
    photos = dataset.photos
    if split not in (None, "all") and any(photo.split == "" for photo in photos):
        raise UsageError(
            f"{root} has no splits; leave out --split {split}: all its photos are used."
        )
    used = {photo.label for photo in photos}
    others = enumerate(dataset.classes[len(classes) :], len(classes))
    if unknown := [other for label, other in others if label in used]:
        named = ", ".join(f"{name!r}{near(name, classes)}" for name in unknown)
        raise DataError(
            f"{root} holds classes that the model does not know: {named}. It knows "
            f"{listed([repr(name) for name in classes])}. Classes are matched by their names: "
            "rename these as the model calls them, or take them out."
        )
    missing = [] if photos else [f"no photos were found for --split {split or 'test'}"]
    if found := [*problems, *missing]:
        raise DataError(f"{root} cannot be evaluated: {'; '.join(found)}. {needed}")
    return replace(dataset, classes=tuple(classes))
