"""Class folders: layouts, splits, what is ignored, and every way in which a folder can be unusable."""

import os
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.dataset import (
    SPLITS,
    Dataset,
    find_bad,
    leaks,
    read_folder,
    split_by_content,
    without,
)
from finetune.errors import DataError


def put(root: Path, *files: str) -> Path:
    """Write files whose content is their own name: reading a folder looks at bytes, not at pixels."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    return root


def put_class(root: Path, name: str, n: int, start: int = 0) -> Path:
    return put(root, *(f"{name}/{i:04d}.jpg" for i in range(start, start + n)))


def put_splits(
    root: Path, classes: tuple[str, ...] = ("cats", "dogs"), names: tuple[str, ...] = SPLITS
) -> Path:
    for split, n in zip(names, (4, 2, 2), strict=True):
        for name in classes:
            put_class(root, f"{split}/{name}", n)
    return root


def sides(dataset: Dataset) -> dict[str, str]:
    return {photo.file: photo.split for photo in dataset.photos}


def error_of(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_folder(root)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in message
    assert "Needed:" in message
    return message


# Layouts and order


def test_three_splits_in_order(tmp_path: Path) -> None:
    root = put_splits(tmp_path / "pets")
    put(root, "train/cats/deep/er/0.PNG", "train/dogs/a.JPeG")
    dataset = read_folder(root)
    assert (dataset.name, dataset.classes, dataset.hashed) == ("pets", ("cats", "dogs"), False)
    files = [photo.file for photo in dataset.split("train")]
    cats = [f"train/cats/000{i}.jpg" for i in range(4)] + ["train/cats/deep/er/0.PNG"]
    assert files == cats + [f"train/dogs/000{i}.jpg" for i in range(4)] + ["train/dogs/a.JPeG"]
    assert [photo.split for photo in dataset.photos] == ["train"] * 10 + ["validation"] * 4 + [
        "test"
    ] * 4
    photo = dataset.photos[0]
    assert photo.path.read_text() == photo.file
    assert photo.sha256 == sha256(photo.file.encode()).hexdigest()


def test_labels_are_indexes_of_sorted_folder_names(tmp_path: Path) -> None:
    dataset = read_folder(put_splits(tmp_path, ("zebra", "Ant", "bee", "10", "9")))
    assert dataset.classes == ("10", "9", "Ant", "bee", "zebra")
    for split in SPLITS:
        labels = dataset.labels(split)
        assert labels.dtype == np.int32
        assert labels.shape == (len(dataset.split(split)),)
        assert [dataset.classes[i] for i in labels] == [
            photo.file.split("/")[1] for photo in dataset.split(split)
        ]
    with pytest.raises(ValueError, match="allowed: train, validation, test"):
        dataset.split("val")


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid", "TEST")])
def test_other_names_of_the_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    dataset = read_folder(put_splits(tmp_path, names=names))
    assert [len(dataset.split(split)) for split in SPLITS] == [8, 4, 4]
    assert dataset.split("validation")[0].file == f"{names[1]}/cats/0000.jpg"


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "plane"):
        put_class(tmp_path, name, 20)
    assert read_folder(tmp_path).classes == ("plane", "train")


def test_linked_class_folders_are_read(tmp_path: Path) -> None:
    put_class(tmp_path / "elsewhere", "cats", 10)
    put_class(tmp_path / "pets", "dogs", 10)
    (tmp_path / "pets/cats").symlink_to(tmp_path / "elsewhere/cats")
    dataset = read_folder(tmp_path / "pets")
    assert Counter(dataset.classes[photo.label] for photo in dataset.photos) == {
        "cats": 10,
        "dogs": 10,
    }


# Splits drawn from contents


def test_split_is_stratified_and_disjoint(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        put_class(tmp_path, name, 500)
    dataset = read_folder(tmp_path)
    assert dataset.hashed
    assert len(sides(dataset)) == 1000
    for label in (0, 1):
        share = [
            float(np.mean([photo.split == s for photo in dataset.photos if photo.label == label]))
            for s in SPLITS
        ]
        assert share == pytest.approx([0.6, 0.2, 0.2], abs=0.06)


def test_split_follows_the_documented_thresholds() -> None:
    hashes = [sha256(str(i).encode()).hexdigest() for i in range(300)]
    for digest, split in split_by_content(hashes).items():
        u = int(digest, 16) / 2**256
        assert split == ("train" if u < 0.6 else "validation" if u < 0.8 else "test")


def test_split_is_stable_as_files_are_added_renamed_and_moved(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        put_class(tmp_path / "a", name, 150)
    before = sides(read_folder(tmp_path / "a"))
    put_class(tmp_path / "a", "cats", 120, start=1000)
    put_class(tmp_path / "a", "dogs", 80, start=1000)
    after = sides(read_folder(tmp_path / "a"))
    assert len(before) == 300
    assert len(after) == 500
    assert before == {file: after[file] for file in before}
    (tmp_path / "a/cats/0007.jpg").rename(tmp_path / "a/cats/z.jpeg")
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = sides(read_folder(tmp_path / "b"))
    assert renamed.pop("cats/z.jpeg") == after.pop("cats/0007.jpg")
    assert renamed == after


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_no_split_is_ever_empty(n: int) -> None:
    for trial in range(300):
        hashes = [sha256(f"{trial}/{i}".encode()).hexdigest() for i in range(n)]
        split = split_by_content(hashes)
        assert set(split) == set(hashes)
        assert set(split.values()) == set(SPLITS)
        assert split_by_content(reversed(hashes)) == split


def test_the_nearest_photo_fills_an_empty_split() -> None:
    place = {u: f"{int(u * 2**40):010x}".ljust(64, "0") for u in (0.1, 0.5, 0.59, 0.95)}
    split = split_by_content(place.values())
    assert {u: split[digest] for u, digest in place.items()} == {
        0.1: "train", 0.5: "train", 0.59: "validation", 0.95: "test"
    }  # fmt: skip


def test_copies_of_a_photo_stay_in_one_split(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        put_class(tmp_path, name, 30)
    for i in range(30):
        (tmp_path / f"cats/copy{i}.jpg").write_bytes((tmp_path / f"cats/{i:04d}.jpg").read_bytes())
    dataset = read_folder(tmp_path)
    assert len(dataset.photos) == 90
    assert leaks(dataset) == []


# Digest and leaks


def test_digest_is_blind_to_names_and_sees_everything_else(tmp_path: Path) -> None:
    root = put_splits(tmp_path / "a")
    digest = read_folder(root).digest
    (root / "train/cats/0000.jpg").rename(root / "train/cats/zz.png")
    root = root.rename(tmp_path / "b")
    put(root, "train/cats/.hidden.jpg")
    assert read_folder(root, "another name").digest == digest

    def moved(old: str, new: str) -> str:
        (root / old).rename(root / new)
        changed = read_folder(root).digest
        (root / new).rename(root / old)
        return changed

    others = {
        moved("train/cats/0001.jpg", "train/dogs/x.jpg"),
        moved("train/cats/0001.jpg", "test/cats/x.jpg"),
        moved("train/cats/0001.jpg", "elsewhere.jpg"),
    }
    assert read_folder(root).digest == digest
    (root / "train/cats/0001.jpg").write_text("other pixels")
    others |= {read_folder(root).digest}
    for split in SPLITS:
        (root / split / "cats").rename(root / split / "cat")
    others |= {read_folder(root).digest}
    assert len(others) == 5
    assert digest not in others


def test_leaks_are_found(tmp_path: Path) -> None:
    root = put_splits(tmp_path)
    (root / "train/cats/again.jpg").write_text(
        "train/cats/0000.jpg"
    )  # the same content, class and split: no leak
    assert leaks(read_folder(root)) == []
    (root / "test/cats/x.jpg").write_text("train/cats/0000.jpg")
    (root / "train/dogs/y.jpg").write_text("train/dogs/0000.jpg")
    (root / "train/cats/z.jpg").write_text("train/dogs/0000.jpg")
    groups = [{photo.file for photo in group} for group in leaks(read_folder(root))]
    assert groups == [
        {"train/cats/0000.jpg", "train/cats/again.jpg", "test/cats/x.jpg"},
        {"train/dogs/0000.jpg", "train/dogs/y.jpg", "train/cats/z.jpg"},
    ]


# What is ignored


def test_what_is_no_photo_is_ignored_and_counted(tmp_path: Path) -> None:
    root = put_splits(tmp_path)
    digest = read_folder(root).digest
    hidden = [
        "train/cats/._0000.jpg",
        "train/cats/.ipynb_checkpoints/0000.jpg",
        ".git/x.jpg",
        "val/.DS_Store",
    ]
    put(root, *[name.replace("val/", "validation/") for name in hidden])
    put(root, "test/dogs/Thumbs.db", "test/desktop.ini", "__MACOSX/train/x.jpg")
    put(root, "README.md", "train/cats/notes.txt", "train/cats/jpg")
    put(root, "loose.jpg", "train/loose.jpg", "unlabelled/0.jpg")
    (root / "train/cats/gone.jpg").symlink_to(root / "nowhere.jpg")
    dataset = read_folder(root)
    assert dataset.digest == digest
    assert dataset.ignored == {
        "hidden": 4,
        "system file": 3,
        "other suffix": 3,
        "outside class folders": 3,
        "broken link or special file": 1,
    }


def test_link_loops_end_and_are_counted(tmp_path: Path) -> None:
    root = put_splits(tmp_path / "pets")
    expected = read_folder(root)
    (root / "train/cats/self").symlink_to(root / "train/cats")
    (root / "train/cats/root").symlink_to(root)
    (root / "train/cats/above").symlink_to(tmp_path)
    (root / "train/dogs/deep").mkdir()
    (root / "train/dogs/deep/up").symlink_to(root / "train")
    os.symlink("knot", root / "train/dogs/knot")
    dataset = read_folder(root)
    assert dataset.photos == expected.photos
    assert dataset.ignored == {"link to a folder already visited": 4, "other suffix": 1}


def test_a_link_to_another_class_is_a_leak_and_no_theft(tmp_path: Path) -> None:
    root = put_splits(tmp_path)
    (root / "train/cats/friends").symlink_to(root / "train/dogs")
    dataset = read_folder(root)
    assert Counter(dataset.labels("train").tolist()) == {0: 8, 1: 4}
    assert len(leaks(dataset)) == 4


# Bad input: each a DataError of one paragraph


def test_no_folder(tmp_path: Path) -> None:
    assert "does not exist" in error_of(tmp_path / "nowhere")
    assert "is a file" in error_of(put(tmp_path, "x.zip") / "x.zip")


def test_empty_folder(tmp_path: Path) -> None:
    assert "no class folders (photos directly in it: 0)" in error_of(tmp_path)


def test_photos_without_class_folders(tmp_path: Path) -> None:
    assert "no class folders (photos directly in it: 2)" in error_of(
        put(tmp_path, "1.jpg", "2.jpg", "notes.txt")
    )


def test_split_folders_without_class_folders(tmp_path: Path) -> None:
    message = error_of(put(tmp_path, "train/1.jpg", "validation/2.jpg", "test/3.jpg"))
    assert all(
        f"{split}/ holds no class folders (photos directly in it: 1)" in message for split in SPLITS
    )


def test_one_class(tmp_path: Path) -> None:
    assert "only one class, 'cats'" in error_of(put_class(tmp_path / "a", "cats", 9))
    assert "only one class, 'cats'" in error_of(put_splits(tmp_path / "b", ("cats",)))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_photos_to_split(tmp_path: Path, n: int) -> None:
    put_class(put_class(tmp_path, "cats", 3), "dogs", n)
    (tmp_path / "dogs").mkdir(exist_ok=True)
    (tmp_path / "dogs/notes.txt").write_text("no photo")
    message = error_of(tmp_path)
    assert f"dogs/ has too few different photos ({n} of 3)" in message
    assert "cats/ has" not in message


def test_copies_do_not_count_as_different_photos(tmp_path: Path) -> None:
    put_class(put_class(tmp_path, "cats", 3), "dogs", 2)
    (tmp_path / "dogs/copy.jpg").write_text("dogs/0000.jpg")
    assert "dogs/ has too few different photos (2 of 3)" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("split", "n"), [("train", 1), ("train", 0), ("validation", 0), ("test", 0)]
)
def test_too_few_photos_in_a_split(tmp_path: Path, split: str, n: int) -> None:
    needed = 2 if split == "train" else 1
    root = put_splits(tmp_path)
    for photo in sorted((root / split / "dogs").iterdir())[n:]:
        photo.unlink()
    message = error_of(root)
    assert f"{split}/dogs/ has too few photos ({n} of {needed})" in message
    assert "cats/ has" not in message


def test_the_smallest_usable_folders(tmp_path: Path) -> None:
    for split, n in zip(SPLITS, (2, 1, 1), strict=True):
        for name in ("cats", "dogs"):
            put_class(tmp_path / "a", f"{split}/{name}", n)
    (tmp_path / "a/train/cats/0001.jpg").write_text(
        "train/cats/0000.jpg"
    )  # a copy is a photo, where splits are given
    assert len(read_folder(tmp_path / "a").photos) == 8
    put_class(put_class(tmp_path / "b", "cats", 3), "dogs", 3)
    assert Counter(photo.split for photo in read_folder(tmp_path / "b").photos) == dict.fromkeys(
        SPLITS, 2
    )


def test_classes_that_differ_between_splits(tmp_path: Path) -> None:
    root = put_splits(tmp_path, ("cats", "dogs", "horses"))
    (root / "validation/cats").rename(root / "validation/cat")
    (root / "test/horses").rename(root / "elsewhere")
    message = error_of(root)
    assert "validation/ lacks the class 'cats' (did you mean 'cat'?)" in message
    assert "validation/ has a new class 'cat' (did you mean 'cats'?)" in message
    assert (
        "test/ lacks the class 'horses';" in message or "test/ lacks the class 'horses'." in message
    )


def test_missing_splits(tmp_path: Path) -> None:
    root = put_splits(tmp_path)
    (root / "validation").rename(tmp_path.parent / f"{tmp_path.name}-validation")
    assert "test/, train/ without validation/" in error_of(root)
    (root / "test").rename(tmp_path.parent / f"{tmp_path.name}-test")
    assert "train/ without validation/ and test/" in error_of(root)


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    put_class(put_class(put_splits(tmp_path), "val/cats", 2), "val/dogs", 2)
    assert "more than one folder stands for validation/" in error_of(tmp_path)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    root = put(put_splits(tmp_path), "train/birds/0.jpg", "validation/bird/0.jpg")
    for photo in (root / "test/dogs").iterdir():
        photo.unlink()
    message = error_of(root)
    for problem in ("validation/ lacks the class 'birds'", "test/ lacks the class 'birds'", "a new class 'bird'",
                    "train/birds/ has too few photos (1 of 2)", "test/dogs/ has too few photos (0 of 1)"):  # fmt: skip
        assert problem in message


def test_unreadable_files_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put_splits(tmp_path)
    read_bytes = Path.read_bytes

    def refuse(
        path: Path,
    ) -> bytes:  # root may read everything, so that permissions alone prove nothing
        if path.name == "0001.jpg" and path.parent.name == "dogs":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    message = error_of(root)
    for split in SPLITS:
        assert f"{split}/dogs/0001.jpg (Permission denied)" in message
    assert "cats" not in message.partition("Needed:")[0]


# Photos that cannot be decoded


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One folder of two classes with ten small photos each."""
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("RGB", (8, 8), (20 * i, 0, 99 if name == "cats" else 0)).save(
                tmp_path / name / f"{i}.png"
            )
    return tmp_path


def test_find_bad_lists_every_bad_photo(photos: Path) -> None:
    (photos / "cats/3.png").write_text("no picture")
    (photos / "dogs/7.png").write_bytes((photos / "dogs/7.png").read_bytes()[:-30])
    dataset = read_folder(photos)
    calls: list[tuple[int, int]] = []
    bad = find_bad(
        dataset.photos, 8, "squash", progress=lambda done, total: calls.append((done, total))
    )
    assert {photo.file for photo, _ in bad} == {"cats/3.png", "dogs/7.png"}
    assert all(why for _, why in bad)
    assert [photo for photo, _ in bad] == [photo for photo in dataset.photos if photo in dict(bad)]
    assert calls == [(i + 1, 20) for i in range(20)]
    (photos / "cats/5.png").unlink()
    gone = {photo.file: why for photo, why in find_bad(dataset.photos, 8, "crop", workers=3)}
    assert len(gone) == 3
    assert "No such file" in gone["cats/5.png"]


def test_without_equals_a_folder_without_the_files(photos: Path) -> None:
    full = read_folder(photos)
    bad = [(photo, "torn") for photo in full.photos if photo.file in ("cats/3.png", "dogs/7.png")]
    kept = without(full, bad)
    assert kept.excluded == tuple((photo.file, "torn") for photo, _ in bad)
    assert len(kept.photos) == 18
    for photo, _ in bad:
        photo.path.unlink()
    assert kept.photos == read_folder(photos).photos
    assert kept.digest == read_folder(photos).digest != full.digest


def test_without_refills_a_split_of_a_tiny_class(tmp_path: Path) -> None:
    put_class(put_class(tmp_path, "cats", 4), "dogs", 4)
    full = read_folder(tmp_path)
    for photo in full.photos:
        kept = without(full, [(photo, "torn")])
        for label in (0, 1):
            assert {other.split for other in kept.photos if other.label == label} == set(SPLITS)


def test_without_checks_the_counts_again(tmp_path: Path) -> None:
    full = read_folder(put_splits(tmp_path / "a"))
    bad = [(photo, "torn") for photo in full.split("test") if photo.label == 1]
    assert len(without(full, bad[:1]).split("test")) == 3
    with pytest.raises(
        DataError, match=r"test/dogs/0000.jpg.*test/dogs/ has too few photos \(0 of 1\)"
    ):
        without(full, bad)
    small = read_folder(put_class(put_class(tmp_path / "b", "cats", 3), "dogs", 3))
    with pytest.raises(DataError, match=r"cats/ has too few different photos \(2 of 3\)"):
        without(small, [(small.photos[0], "torn")])


def test_the_real_photos() -> None:
    copies = os.environ.get("FINETUNE_DATA_DIR")
    folder = Path(copies or "unset") / "cats_and_dogs_small"
    if not folder.is_dir():
        pytest.skip("FINETUNE_DATA_DIR holds no cats_and_dogs_small/")
    dataset = read_folder(folder)
    assert [len(dataset.split(split)) for split in SPLITS] == [2000, 1000, 1000]
    assert dataset.classes == ("cats", "dogs")
    assert leaks(dataset) == []
    assert all(dataset.labels(split).mean() == 0.5 for split in SPLITS)
