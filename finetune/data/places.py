"""The photos that a classifier is asked about: files and folders, as a person names them."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path

from finetune.data.photos import SUFFIXES, list_photos
from finetune.errors import DataError, UsageError


def find_photos(photos: Sequence[Path | str] | Path | str) -> Iterator[Path]:
    """The photos in files and folders, in order.

    Raises:
        UsageError: an address. DataError: a path does not exist, or there are no photos.
    """
    given = [photos] if isinstance(photos, str | PathLike) else list(photos)
    for place in map(str, given):
        if re.match(r"(https?|ftp|s3|gs|hf):/", place):
            whole = re.sub(r":/+", "://", place, count=1)  # a path has lost a slash of it
            raise UsageError(f"{whole} is an address. Download it, and give the file's path.")
    found = list_photos([Path(place) for place in given])
    first = next(found, None)
    if first is None:
        raise DataError(
            f"There are no photos in {', '.join(map(str, given))}. Photos in folders end in "
            f"{', '.join(sorted(SUFFIXES))}."
        )
    return chain([first], found)
