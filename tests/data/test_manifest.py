"""A table of photos: what it may say, and what is wrong with it."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from finetune.data.catalog import resolve, resolve_labelled
from finetune.data.dataset import SPLITS
from finetune.errors import DataError, UsageError


def rows(root: Path, n: int = 20) -> list[dict[str, object]]:
    table = []
    for i in range(2 * n):
        file = root / f"all/{i}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_text(str(i))
        table.append({"file": f"all/{i}.jpg", "label": ("cat", "dog")[i % 2]})
    return table


def written(root: Path, table: list[dict[str, object]], suffix: str = ".csv") -> str:
    path = root / f"photos{suffix}"
    frame = pd.DataFrame(table)
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    return str(path)


def error_of(root: Path, table: list[dict[str, object]]) -> str:
    with pytest.raises(DataError) as caught:
        resolve(written(root, table))
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_split_by_quotas(tmp_path, suffix):
    dataset = resolve(written(tmp_path, rows(tmp_path), suffix))
    assert dataset.name == "photos"
    assert dataset.classes == ("cat", "dog")
    assert Counter(photo.split for photo in dataset.photos) == {
        "train": 24, "validation": 8, "test": 8
    }  # fmt: skip
    assert all(photo.path.is_file() for photo in dataset.photos)
    assert dataset.photos[0].file.startswith("all/")


def test_splits_groups_and_weights_are_taken(tmp_path):
    table = rows(tmp_path)
    for i, row in enumerate(table):
        row |= {"split": ("train", "val", "test")[i // 2 % 3], "group": i // 6, "weight": 1 + i % 2}
    dataset = resolve(written(tmp_path, table))
    assert not dataset.hashed
    assert [len(dataset.split(split)) for split in SPLITS] == [14, 14, 12]
    assert {photo.weight for photo in dataset.photos} == {1.0, 2.0}
    assert len(set(dataset.group_ids("test").tolist())) == 6


def test_groups_stay_on_one_side_where_the_split_is_drawn(tmp_path):
    table = rows(tmp_path)
    for i, row in enumerate(table):
        row["group"] = f"{row['label']}{i // 8}"
    sides: dict[str, set[str]] = {}
    for photo in resolve(written(tmp_path, table)).photos:
        sides.setdefault(photo.group, set()).add(photo.split)
    assert all(len(found) == 1 for found in sides.values())


def test_too_few_groups_to_draw_a_split_are_refused(tmp_path):
    table = [row | {"group": row["label"]} for row in rows(tmp_path)]
    message = error_of(tmp_path, table)
    assert "test/cat/ has too few photos (0 of 1)" in message
    assert "at least 3 groups in each class" in message


def test_labels_typed_in_two_ways_are_pointed_out(tmp_path):
    table = rows(tmp_path)
    table[0]["label"] = "Cat "
    assert "'Cat ' and 'cat'" in error_of(tmp_path, table)


def test_what_is_wrong_is_listed_at_once(tmp_path):
    table = rows(tmp_path)
    table[0]["file"] = "gone.jpg"
    table[1]["file"] = table[2]["file"]
    table[3]["label"] = ""
    for row in table:
        row |= {"split": "train", "weight": 1}
    table[4]["split"] = "holdout"
    table[5]["weight"] = -1
    message = error_of(tmp_path, table)
    for words in (
        "'gone.jpg' (No such file",
        "more than one row: '2.jpg'",
        "1 row without a label",
        "'holdout'; allowed: train, validation, test",
        "no positive numbers: '-1'",
    ):
        assert words in message


def test_a_split_without_photos_is_missed(tmp_path):
    table = [row | {"split": "train"} for row in rows(tmp_path)]
    assert "test/cat/ has too few photos (0 of 1)" in error_of(tmp_path, table)


def test_no_table(tmp_path):
    assert "lacks the columns label" in error_of(tmp_path, [{"file": "a.jpg"}])
    (tmp_path / "photos.csv").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as a table"):
        resolve(str(tmp_path / "photos.csv"))
    (tmp_path / "photos.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read as a table"):
        resolve(str(tmp_path / "photos.parquet"))


def test_small_classes_of_a_table_are_left_out(tmp_path):
    table = rows(tmp_path)
    table[0]["label"] = table[1]["label"] = "emu"
    assert "--min-per-class 3" in error_of(tmp_path, table)
    dataset = resolve(written(tmp_path, table), min_per_class=3)
    assert dataset.left_out == (("emu", 2),)


def test_several_labels_are_refused(tmp_path):
    table = rows(tmp_path)
    table[0]["label"] = "cat|dog"
    assert "'cat|dog'): a classifier here names one class" in error_of(tmp_path, table)


def test_categories_with_empty_cells_are_read(tmp_path):
    table = pd.DataFrame(rows(tmp_path)).astype({"label": "category"})
    table["group"] = pd.Categorical([None] * 39 + ["a"])
    table.to_parquet(tmp_path / "photos.parquet")
    dataset = resolve(str(tmp_path / "photos.parquet"))
    assert Counter(photo.group for photo in dataset.photos) == {"": 39, "a": 1}


def test_a_weight_makes_another_training(tmp_path):
    table = rows(tmp_path)
    plain = resolve(written(tmp_path, table))
    assert plain.weights("train") is None
    for i, row in enumerate(table):
        row["weight"] = 1 + i % 2
    weighted = resolve(written(tmp_path, table))
    assert weighted.digest != plain.digest
    assert weighted.weights("train").mean() == pytest.approx(1)
    dogs = weighted.labels("train") == 1
    assert weighted.weights("train")[dogs] == pytest.approx(4 / 3)
    for row in table:
        row["weight"] = 1
    assert resolve(written(tmp_path, table)).digest == plain.digest


def test_a_table_to_test_a_classifier_on(tmp_path):
    table = rows(tmp_path)
    path = written(tmp_path, table)
    dataset = resolve_labelled(path, ("dog", "cat"))
    assert dataset.classes == ("dog", "cat")
    assert Counter(photo.label for photo in dataset.photos) == {0: 20, 1: 20}
    assert {photo.split for photo in dataset.photos} == {""}
    assert dataset.root == tmp_path
    with pytest.raises(UsageError, match="has no splits"):
        resolve_labelled(path, ("dog", "cat"), "test")
    with pytest.raises(DataError, match="'dog' \\(did you mean 'dogs'"):
        resolve_labelled(path, ("dogs", "cat"))
    for i, row in enumerate(table):
        row["split"] = ("train", "val", "test")[i // 2 % 3]
    path = written(tmp_path, table)
    assert len(resolve_labelled(path, ("cat", "dog")).photos) == 12
    assert len(resolve_labelled(path, ("cat", "dog"), "validation").photos) == 14
    assert len(resolve_labelled(path, ("cat", "dog"), "all").photos) == 40
    table = [row | {"split": "train"} for row in table]
    with pytest.raises(DataError, match="no photos were found for --split test"):
        resolve_labelled(written(tmp_path, table), ("cat", "dog"))
