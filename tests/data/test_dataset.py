"""Class folders: layouts, splits, what is ignored, and every way in which a folder can be
unusable.
"""

import os
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from PIL import Image

from finetune.data.dataset import SPLITS, Dataset, all_copies, find_bad, leaks, read_folder, without
from finetune.data.groups import groups
from finetune.data.labelled import read_labelled
from finetune.data.photos import Photo
from finetune.data.splits import draw, draw_photos
from finetune.errors import DataError, UsageError


def put(root: Path, *files: str) -> Path:
    """Write files whose content is their own name: reading a folder looks at bytes, not at
    pixels.
    """
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


@pytest.mark.parametrize("splits", [(".",), SPLITS])
def test_a_class_folder_whose_name_is_no_text_gives_a_class_that_files_can_hold(
    splits: tuple[str, ...], tmp_path: Path
) -> None:
    names = {"bar": os.fsdecode(b"caf\xe9"), "pub": "caf\\xe9"}
    for split in splits:
        for name in (*names, "tea"):
            put_class(tmp_path, f"{split}/{name}", 5)
        for name, called in names.items():
            (tmp_path / split / name).rename(tmp_path / split / called)
    dataset = read_folder(tmp_path)
    assert dataset.classes == ("caf\\x5cxe9", "caf\\xe9", "tea")
    assert all(photo.path.is_file() for photo in dataset.photos)
    assert read_labelled(tmp_path, dataset.classes, "all").classes == dataset.classes


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
        counts = Counter(photo.split for photo in dataset.photos if photo.label == label)
        assert counts == {"train": 300, "validation": 100, "test": 100}


def test_sixty_photos_of_a_class_are_36_12_12() -> None:
    hashes = [sha256(str(i).encode()).hexdigest() for i in range(60)]
    sizes = Counter(draw(dict.fromkeys(hashes, 1)).values())
    assert sizes == {"train": 36, "validation": 12, "test": 12}


@pytest.mark.parametrize("n", range(3, 40))
def test_quotas_are_a_fifth_rounded(n: int) -> None:
    split = draw({sha256(str(i).encode()).hexdigest(): 1 for i in range(n)})
    quota = max(1, (2 * n + 5) // 10)
    assert Counter(split.values()) == {
        "train": n - 2 * quota, "validation": quota, "test": quota
    }  # fmt: skip


def test_an_added_photo_moves_three_at_most_and_only_to_the_side_beside() -> None:
    hashes = [sha256(str(i).encode()).hexdigest() for i in range(200)]
    before: dict[str, str] = {}
    for n in range(3, 200):
        after = draw(dict.fromkeys(hashes[:n], 1))
        moved = [
            (SPLITS.index(before[h]), SPLITS.index(after[h]))
            for h in before
            if before[h] != after[h]
        ]
        assert len(moved) <= 3
        assert all(abs(old - new) == 1 for old, new in moved)
        before = after


def test_split_is_blind_to_names_and_places(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        put_class(tmp_path / "a", name, 50)
    before = sides(read_folder(tmp_path / "a"))
    (tmp_path / "a/cats/0007.jpg").rename(tmp_path / "a/cats/z.jpeg")
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = sides(read_folder(tmp_path / "b"))
    assert renamed.pop("cats/z.jpeg") == before.pop("cats/0007.jpg")
    assert renamed == before


def test_copies_of_a_photo_stay_in_one_split(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        put_class(tmp_path, name, 30)
    for i in range(30):
        (tmp_path / f"cats/copy{i}.jpg").write_bytes((tmp_path / f"cats/{i:04d}.jpg").read_bytes())
    dataset = read_folder(tmp_path)
    assert len(dataset.photos) == 90
    assert leaks(dataset) == []


def of(number: int, content: int | None = None, group: str = "", label: int = 0) -> Photo:
    content = number if content is None else content
    digest = sha256(str(content).encode()).hexdigest()
    return Photo(Path(f"{number}.png"), f"{number}.png", label, "", digest, group)


def test_copies_stay_in_one_split_across_groups_and_classes() -> None:
    chained = [of(n, 1000 + n // 2, f"burst{(n + 1) // 2}") for n in range(20)]
    mixed = [of(20 + n, 2000 + n % 5, "site" if n < 5 else "", n % 2) for n in range(10)]
    alone = [of(30 + n, label=n % 2) for n in range(40)]
    for seed in range(5):
        photos = [*chained, *mixed, *alone]
        np.random.default_rng(seed).shuffle(photos)
        split = {photo.file: photo.split for photo in draw_photos(photos)}
        assert len({split[photo.file] for photo in chained}) == 1
        assert len({split[photo.file] for photo in mixed}) == 1
        assert set(split.values()) == set(SPLITS)


def test_without_copies_across_groups_a_unit_is_drawn_by_its_content_or_group() -> None:
    """Digests of splits are recorded: where nothing else connects them, they must not change."""
    photos = [of(n, n // 2 * 2, label=n // 2 % 2) for n in range(90)]
    photos += [of(n, group=f"patient{n // 7}", label=n % 3 % 2) for n in range(100, 240)]
    drawn = draw_photos(photos)
    for label in (0, 1):
        weights: dict[str, set[str]] = {}
        of_unit = {}
        for photo in drawn:
            members = [p for p in photos if photo.group and p.group == photo.group] or [photo]
            counts = Counter(p.label for p in members)
            if (counts[1] > counts[0]) == bool(label):
                name = photo.group.encode()
                of_unit[photo] = sha256(name).hexdigest() if name else photo.sha256
                weights.setdefault(of_unit[photo], set()).add(photo.sha256)
        expected = draw({key: len(contents) for key, contents in weights.items()})
        assert {p.split for p in of_unit} == set(SPLITS)
        assert all(p.split == expected[key] for p, key in of_unit.items())


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
    assert "--min-per-class N would leave them out, but two classes must be left" in message
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
    for problem in (
        "validation/ lacks the class 'birds'",
        "test/ lacks the class 'birds'",
        "a new class 'bird'",
        "train/birds/ has too few photos (1 of 2)",
        "test/dogs/ has too few photos (0 of 1)",
    ):
        assert problem in message


def test_unreadable_files_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put_splits(tmp_path)
    opened = Path.open

    def refuse(path: Path, *mode: str) -> object:  # root may read all: permissions prove nothing
        if path.name == "0001.jpg" and path.parent.name == "dogs":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *mode)

    monkeypatch.setattr(Path, "open", refuse)
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
    calls: list[int] = []
    bad = find_bad(dataset.photos, 8, "squash", progress=calls.append)
    assert {photo.file for photo, _ in bad} == {"cats/3.png", "dogs/7.png"}
    assert all(why for _, why in bad)
    assert [photo for photo, _ in bad] == [photo for photo in dataset.photos if photo in dict(bad)]
    assert calls == [1] * 20
    (photos / "cats/5.png").unlink()
    gone = {photo.file: why for photo, why in find_bad(dataset.photos, 8, "crop")}
    assert len(gone) == 3
    assert "No such file" in gone["cats/5.png"]


def test_without_moves_nobody_and_names_every_file(photos: Path) -> None:
    (photos / "cats/copy.png").write_bytes((photos / "cats/3.png").read_bytes())
    full = read_folder(photos)
    bad = [(photo, "torn") for photo in full.photos if photo.file in ("cats/3.png", "dogs/7.png")]
    kept = without(full, bad)
    left_out = {"cats/3.png", "cats/copy.png", "dogs/7.png"}
    assert set(kept.excluded) == {(file, "torn") for file in left_out}
    assert sides(kept) == {f: side for f, side in sides(full).items() if f not in left_out}
    assert {photo.file for photo, _ in all_copies(full, bad)} == left_out


def test_without_checks_the_counts_again(tmp_path: Path) -> None:
    full = read_folder(put_splits(tmp_path / "a"))
    bad = [(photo, "torn") for photo in full.split("test") if photo.label == 1]
    assert len(without(full, bad[:1]).split("test")) == 3
    with pytest.raises(
        DataError, match=r"test/dogs/0000.jpg.*test/dogs/ has too few photos \(0 of 1\)"
    ):
        without(full, bad)
    small = read_folder(put_class(put_class(tmp_path / "b", "cats", 3), "dogs", 3))
    with pytest.raises(DataError, match=r"train/cats/ has too few photos \(0 of 1\)"):
        without(small, [(small.photos[0], "torn")])


# Classes that are too small, and groups


def test_the_error_about_a_small_class_names_the_flag_and_it_works(tmp_path: Path) -> None:
    for name, n in {"cats": 9, "dogs": 9, "fish": 2}.items():
        put_class(tmp_path, name, n)
    assert "--min-per-class 3" in error_of(tmp_path)
    dataset = read_folder(tmp_path, min_per_class=3)
    assert dataset.classes == ("cats", "dogs")
    assert dataset.left_out == (("fish", 2),)
    assert {photo.label for photo in dataset.photos} == {0, 1}


def test_classes_that_a_split_lacks_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    root = put_splits(tmp_path, ("ants", "cats", "dogs"))
    for photo in (root / "test/ants").iterdir():
        photo.unlink()
    (root / "test/ants").rmdir()
    dataset = read_folder(root, min_per_class=1)
    assert dataset.classes == ("cats", "dogs")
    assert dataset.left_out == (("ants", 6),)
    assert dataset.photos[0].file == "train/cats/0000.jpg"
    assert dataset.photos[0].label == 0


def test_min_per_class_that_leaves_one_class_says_so(tmp_path: Path) -> None:
    put_class(put_class(tmp_path, "cats", 9), "dogs", 4)
    with pytest.raises(DataError, match="only one class, 'cats'"):
        read_folder(tmp_path, min_per_class=5)


def test_many_small_classes_are_not_all_listed(tmp_path: Path) -> None:
    for i in range(120):
        put_class(tmp_path, f"class{i}", 2)
    assert len(error_of(tmp_path)) < 1500


def put_patients(root: Path) -> Path:
    for name in ("cats", "dogs"):
        files = [f"{name}/{name}{p:02d}_{i}.jpg" for p in range(20) for i in range(1 + p % 3)]
        put(root, *files)
    return root


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    dataset = groups(read_folder(put_patients(tmp_path)), "([a-z]+[0-9]+)_")
    side: dict[str, set[str]] = {}
    for photo in dataset.photos:
        side.setdefault(photo.group, set()).add(photo.split)
    assert len(side) == 40
    assert all(len(found) == 1 for found in side.values())
    sizes = Counter(photo.split for photo in dataset.photos)
    assert abs(sizes["test"] - 16) <= 4
    ids = dataset.group_ids("test")
    assert ids.dtype == np.int32
    assert len(ids) == sizes["test"]
    assert len(set(ids.tolist())) == sum(found == {"test"} for found in side.values())


def test_a_group_may_be_a_folder_and_span_classes(tmp_path: Path) -> None:
    for day in range(12):
        put(tmp_path, *(f"{name}/day{day}/{i}.jpg" for name in ("cats", "dogs") for i in range(2)))
        put(tmp_path, f"{('cats', 'dogs')[day % 2]}/day{day}/more.jpg")
    dataset = groups(read_folder(tmp_path), "folder:2")
    sides_of = {(photo.group, photo.split) for photo in dataset.photos}
    assert len(sides_of) == 12


def test_without_groups_only_copies_belong_together(tmp_path: Path) -> None:
    root = put_splits(tmp_path)
    (root / "test/cats/again.jpg").write_text("test/cats/0000.jpg")
    assert len(set(read_folder(root).group_ids("test").tolist())) == 4


@pytest.mark.parametrize("rule", ["(", "patient", "folder:0"])
def test_rules_that_are_none(tmp_path: Path, rule: str) -> None:
    with pytest.raises(UsageError, match="groups"):
        groups(read_folder(put_patients(tmp_path)), rule)


def test_a_rule_that_fits_not_every_photo_names_those(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no group for 39 of 78 photos: .*dogs"):
        groups(read_folder(put_patients(tmp_path)), "(cats[0-9]+)_")


def test_too_few_groups(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 3 groups"):
        groups(read_folder(put_patients(tmp_path)), "(cats|dogs)")


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


def test_the_advice_counts_photos_that_were_taken_out_since(tmp_path: Path) -> None:
    """min_per_class counts files before any is decoded: the number must be larger than theirs."""
    for name, n in (("ant", 20), ("bee", 20), ("emu", 3)):
        for i in range(n):
            path = tmp_path / name / f"{i}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{name}{i}")
    dataset = read_folder(tmp_path)
    bad = [(photo, "torn") for photo in dataset.photos if "emu" in photo.file][:1]
    with pytest.raises(DataError, match="--min-per-class 4 leaves such classes out"):
        without(dataset, bad)
    assert read_folder(tmp_path, min_per_class=4).classes == ("ant", "bee")


def test_a_least_number_that_leaves_no_class_is_said(tmp_path):
    for name in ("a", "b"):
        for number in range(4):
            paint(tmp_path / name / f"{number}.png", (9, 9, 9), number + 10 * (name == "b"))
    with pytest.raises(DataError, match="--min-per-class 50 leaves no class of .* 4 photos"):
        read_folder(tmp_path, min_per_class=50)
