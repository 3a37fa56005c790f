"""Folds: every photo is tested once, and what belongs together is never apart."""

from collections import Counter
from pathlib import Path

import pytest

from finetune.data.dataset import Dataset, ordered
from finetune.data.folds import cross_folds
from finetune.data.photos import Photo
from finetune.errors import DataError


def dataset(photos) -> Dataset:
    return Dataset("d", Path("/d"), ("a", "b"), ordered(photos), {})


def photo(number: int, **changes) -> Photo:
    values = {"label": number % 2, "split": "train", "sha256": f"{number:064}", "group": ""}
    return Photo(Path(f"{number}.png"), f"{number}.png", **{**values, **changes})


def files_tested(folds) -> list[list[str]]:
    return [[photo.file for photo in fold.split("test")] for fold in folds]


def test_every_photo_is_tested_once_per_repeat_in_folds_of_both_classes():
    whole = dataset([photo(n) for n in range(41)])
    folds = list(cross_folds(whole, [], 5, repeats=2))
    assert len(folds) == 10
    for repeat in (folds[:5], folds[5:]):
        files = Counter(file for part in files_tested(repeat) for file in part)
        assert files == Counter(photo.file for photo in whole.photos)
        for number, fold in enumerate(repeat):
            assert {len(fold.labels("test")), 8} <= {8, 9}
            assert set(fold.labels("test")) == {0, 1}
            following = repeat[(number + 1) % 5]
            assert set(fold.split("validation")).isdisjoint(fold.split("test"))
            chosen = {photo.file for photo in fold.split("validation")}
            assert chosen == {photo.file for photo in following.split("test")}
    assert files_tested(folds[:5]) != files_tested(folds[5:])
    assert files_tested(cross_folds(whole, [], 5, 2)) == files_tested(folds), (
        "they are no matter of chance"
    )


def test_the_splits_that_photos_came_with_do_not_matter():
    whole = dataset([photo(n) for n in range(30)])
    moved = dataset([photo(n, split="test" if n % 3 else "validation") for n in range(30)])
    folds = [sorted(files) for files in files_tested(cross_folds(whole, [], 3))]
    assert [sorted(files) for files in files_tested(cross_folds(moved, [], 3))] == folds


def test_copies_look_alikes_and_groups_are_never_apart():
    photos = [photo(n) for n in range(40)]
    photos += [photo(40, sha256=photos[0].sha256), photo(41, label=0, sha256=photos[1].sha256)]
    photos += [photo(n, group="burst") for n in (42, 44, 46)]
    photos.append(photo(48))
    alike = [(photos[2], photos[4]), (photos[4], photos[6]), (photos[40], photos[45])]
    together = [{0, 40, 48}, {1, 41}, {2, 4, 6}, {42, 44, 46}]
    for fold in cross_folds(dataset(photos), alike, 4, repeats=3):
        for unit in together:
            splits = {p.split for p in fold.photos if int(p.file.removesuffix(".png")) in unit}
            assert len(splits) == 1


def test_a_class_with_too_few_independent_photos_is_named():
    photos = [photo(n) for n in range(10)] + [photo(n, group="one", label=0) for n in (20, 22)]
    with pytest.raises(DataError, match=r"folds: 6 needs .* each class; b has 5"):
        list(cross_folds(dataset(photos), [], 6))
    assert len(list(cross_folds(dataset(photos), [], 5))) == 5
