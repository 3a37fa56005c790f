"""Photos that are not independent of each other: of one patient, one place, one burst."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from finetune.data.class_folders import listed
from finetune.data.dataset import Dataset, drawn
from finetune.data.photos import Photo
from finetune.errors import DataError, UsageError


def groups(dataset: Dataset, rule: str) -> Dataset:
    """The data set with groups of photos that are not independent: of one patient, place or burst.

    Splits that were drawn are drawn again, so that no group is in two of them.

    Args:
        dataset: the photos.
        rule: a regular expression, found in the file's name, whose first group is the photo's
            group, as in ``(patient[0-9]+)_``; or ``folder:N``, the N-th folder of ``Photo.file``.

    Raises:
        UsageError: the rule is neither.
        DataError: it finds no group for a photo, or there are too few groups to split.
    """
    find = group_rule(rule)
    found = {photo: find(photo.file) for photo in dataset.photos}
    if lost := [photo.file for photo, group in found.items() if not group]:
        raise DataError(
            f"groups: {rule} finds no group for {len(lost):,} of {len(found):,} photos: "
            f"{listed(lost, 3)}. Change the rule so that it fits every photo, or leave it out."
        )
    photos = [replace(photo, group=group) for photo, group in found.items()]
    if not dataset.hashed:
        return replace(dataset, photos=tuple(photos))
    return drawn(dataset, photos, f": {rule}")


_LONGEST = 1_000  # characters of a rule
# By folder, by the name to its last or first separator, and by the name without its last number.
_RULES = ("folder:3", "folder:2", r"^(.+)[-_. ].+\.", r"^([^-_. ]+)[-_. ]", r"^(.*[^0-9])[0-9]+\.")


def propose_rule(dataset: Dataset, together: Sequence[Sequence[Photo]]) -> str | None:
    """A rule for ``groups`` under which photos that look alike are of one group, the finest one.

    Args:
        dataset: the photos.
        together: sets of photos that belong together.

    Returns:
        None if no simple rule fits, or it leaves too few groups to split.
    """
    fitting: list[tuple[int, str]] = []
    for rule in _RULES if together else ():
        find = group_rule(rule)
        whole = all(len({find(photo.file) for photo in group}) == 1 for group in together)
        names = {(photo.label, find(photo.file)) for photo in dataset.photos}
        if whole and "" not in {name for _, name in names} and len(names) < len(dataset.photos):
            per_class = Counter(label for label, _ in names)
            if min(per_class.values()) >= 3:
                fitting.append((len({name for _, name in names}), rule))
    return max(fitting)[1] if fitting else None


def group_rule(rule: str) -> Callable[[str], str]:
    """From a file, as ``Photo.file``, to its group, "" where the rule finds none.

    Raises:
        UsageError: it is no rule, see ``groups``.
    """
    if len(rule) > _LONGEST:
        raise UsageError(
            f"groups has {len(rule):,} characters; allowed are {_LONGEST:,}. Give a simpler rule, "
            "or a table of photos with a column group."
        )
    if level := re.fullmatch(r"folder:([1-9][0-9]*)", rule):
        number = int(level[1])
        return lambda file: "".join(file.split("/")[:-1][number - 1 : number])
    try:
        pattern = re.compile(rule)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"groups: {rule!r} is no regular expression: {error}.") from error
    if pattern.groups < 1:
        raise UsageError(
            f"groups: {rule!r} captures nothing; allowed: folder:N, or a regular expression with "
            "parentheses around what names the group, as in '(patient[0-9]+)_'."
        )

    def find(file: str) -> str:
        match = pattern.search(file.rpartition("/")[2])
        return match[1] or "" if match else ""

    return find
