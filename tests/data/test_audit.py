"""`finetune check`: what is wrong is found, named and nothing else; the real photos hold one
picture twice.
"""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import finetune_here, paint
from PIL import Image
from scipy.stats import binomtest

from finetune.data.alike import SMALLEST, alike, components, thumbnail
from finetune.data.audit import audit, half_width, majority_baseline, warnings_of
from finetune.data.dataset import find_bad, read_folder
from finetune.data.decode import decode
from finetune.data.groups import groups
from finetune.evaluation.metrics import summarize
from finetune.recipe.reading import load


def scene(path: Path, seed: int, size: tuple[int, int] = (120, 90), **save: object) -> Path:
    """A smooth picture: the same seed is the same picture at any size and compression."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((240, 180), Image.Resampling.BICUBIC).resize(size).save(
        path, **save
    )
    return path


@pytest.fixture
def faulty(photos) -> Path:
    """The folder of the fixture with one fault of each kind."""
    (photos / "train/apples/broken.jpg").write_bytes(b"no picture")
    (photos / "test/plums/leak.png").write_bytes((photos / "train/plums/0.png").read_bytes())
    (photos / "train/apples/twice.png").write_bytes((photos / "train/apples/1.png").read_bytes())
    scene(photos / "train/apples/scene.png", seed=1)
    scene(photos / "validation/apples/scene.jpg", seed=1, size=(60, 45), quality=60)
    (photos / "train/notes.txt").write_text("no photo")
    (photos / "train/apples/.hidden.jpg").write_text("no photo")
    return photos


def test_a_sound_folder_is_reported_and_ends_with_0(photos):
    done = finetune_here("check", photos, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # one object and nothing else
    assert (report["data"], report["folder"], report["ok"]) == (str(photos), str(photos), True)
    assert report["photos"] == {
        "train": {"apples": 7, "plums": 5},
        "validation": {"apples": 3, "plums": 4},
        "test": {"apples": 4, "plums": 3},
    }
    assert (report["classes"], report["split"]) == (["apples", "plums"], read_folder(photos).digest)
    assert [
        report[key] for key in ("bad", "leaks", "duplicates", "near_duplicates", "ignored")
    ] == [[], [], [], [], {}]
    assert report["imbalance"] == 1.4
    assert report["sizes"] == {"shortest": 30, "longest": 40, "size": 224, "smaller": 26}
    text = finetune_here("-q", "check", photos, "--size", 32)
    assert (text.returncode, text.stderr) == (0, "")
    assert re.search(r"^  together +12 +7 +7$", text.stdout, re.MULTILINE)
    assert "26 photos smaller than 32 px" in text.stdout
    assert "cannot be decoded: none" in text.stdout
    assert "7 test photos tell an accuracy of 90 % to about ± 22." in text.stdout


def test_every_fault_is_named_and_ends_with_3(faulty):
    done = finetune_here("check", faulty, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "error: 1 photo cannot be decoded and 1 group of identical photos"
    )
    assert [bad["file"] for bad in report["bad"]] == ["train/apples/broken.jpg"]
    assert "UnidentifiedImageError" in report["bad"][0]["reason"]
    assert report["leaks"] == [["train/plums/0.png", "test/plums/leak.png"]]
    assert report["duplicates"] == [["train/apples/1.png", "train/apples/twice.png"]]
    assert report["near_duplicates"] == [["train/apples/scene.png", "validation/apples/scene.jpg"]]
    assert report["ignored"] == {"other suffix": 1, "hidden": 1} | report["ignored"]
    assert report["sizes"] == {"shortest": 30, "longest": 120, "size": 224, "smaller": 30}
    assert not report["ok"]
    text = finetune_here("check", faulty).stdout
    assert "train/plums/0.png = test/plums/leak.png" in text
    assert "train/apples/scene.png ~ validation/apples/scene.jpg" in text
    assert "train/apples/broken.jpg (" in text


@pytest.mark.parametrize(
    ("name", "content", "ok"),
    [
        ("test/apples/x.png", "train/apples/0.png", False),  # a leak alone
        ("train/plums/x.png", "train/apples/0.png", False),  # under two classes of one split
        ("train/apples/x.png", "train/apples/0.png", True),  # a copy in its own class and split
    ],
)
def test_only_copies_across_splits_or_classes_are_wrong(photos, name, content, ok):
    scene(photos / "train/apples/0.png", seed=9)
    (photos / name).write_bytes((photos / content).read_bytes())
    report = audit(read_folder(photos))
    assert (report["ok"], bool(report["leaks"]), bool(report["duplicates"])) == (ok, not ok, ok)
    assert report["near_duplicates"] == [], "identical photos are not named a second time"


def test_a_broken_photo_alone_is_wrong_and_is_what_a_run_would_stop_at(photos):
    (photos / "test/apples/broken.png").write_bytes(
        (photos / "test/apples/0.png").read_bytes()[:200]
    )
    dataset = read_folder(photos)
    report = audit(dataset)
    assert not report["ok"]
    ((photo, reason),) = find_bad(dataset.photos, 224, "squash")
    assert report["bad"] == [{"file": photo.file, "reason": reason}]
    said = finetune_here("check", photos, "--json").stderr.splitlines()[-1]
    assert said == "error: 1 photo cannot be decoded; mend or remove it before you train."


def test_a_folder_without_splits_and_what_is_no_data_set(tmp_path, photos):
    for i in range(12):
        paint(tmp_path / "loose" / ("a", "b")[i % 2] / f"{i}.png", (10 * i, 99, 30), seed=i)
    done = finetune_here("check", tmp_path / "loose")
    assert done.returncode == 0
    assert "split: drawn by content, 60/20/20" in done.stdout
    for wrong, word in (
        (tmp_path / "nowhere", "neither a folder nor the name"),
        (photos / "train/plums", "no class"),
    ):
        done = finetune_here("check", wrong, "--json")
        assert (done.returncode, done.stdout) == (3, "")
        assert word in done.stderr


# What is nearly alike


def near(root: Path) -> list[list[str]]:
    return audit(read_folder(root))["near_duplicates"]


def test_a_picture_saved_again_is_nearly_alike_in_another_split_only(photos):
    scene(photos / "test/plums/a.png", seed=3)
    scene(photos / "test/plums/b.jpg", seed=3, quality=80)
    assert near(photos) == []
    scene(photos / "train/apples/c.jpg", seed=3, size=(300, 200), quality=50)
    assert near(photos) == [
        ["train/apples/c.jpg", "test/plums/a.png"],
        ["train/apples/c.jpg", "test/plums/b.jpg"],
    ]
    scene(photos / "validation/apples/d.png", seed=4)
    assert len(near(photos)) == 2, "another picture is not like them"


def test_tiny_pictures_are_not_compared(photos):
    for split in ("train", "test"):
        scene(
            photos / split / "apples/tiny.png",
            seed=5,
            size=(99, SMALLEST - 1),
            compress_level=len(split),
        )
    assert near(photos) == []
    for split in ("train", "test"):
        scene(
            photos / split / "apples/small.png",
            seed=5,
            size=(99, SMALLEST),
            compress_level=len(split),
        )
    assert near(photos) == [["train/apples/small.png", "test/apples/small.png"]]


def test_pairs_within_a_split_are_bursts_and_all_propose_groups(photos):
    scene(photos / "train/plums/a.png", seed=3)
    scene(photos / "train/plums/b.jpg", seed=3, quality=80)
    scene(photos / "test/plums/c.jpg", seed=3, quality=50)
    report = audit(read_folder(photos))
    assert report["bursts"] == [["train/plums/a.png", "train/plums/b.jpg"]]
    assert len(report["near_duplicates"]) == 2
    assert report["groups_proposed"] == [
        ["train/plums/a.png", "train/plums/b.jpg", "test/plums/c.jpg"]
    ]


def test_components():
    assert components([(0, 5), (1, 2), (2, 7), (5, 6), (1, 7)]) == [[0, 5, 6], [1, 2, 7]]


def test_even_surfaces_are_not_alike():
    flat = [np.full((64, 64), value, np.uint8) for value in (0, 10, 200)]
    assert alike(flat) == []
    assert alike([]) == []


def test_of_a_fixed_camera_the_most_alike_are_compared_and_that_is_said(monkeypatch):
    """Every photo is of one composition: all pairs pass the coarse comparison."""
    draw = np.random.default_rng(0)
    scene = np.linspace(0, 190, 64)[None, :] + np.zeros((64, 64))
    photos = [(scene + draw.integers(0, 60, (64, 64))).astype(np.uint8) for _ in range(300)]
    photos += [np.clip(photo + 1, 0, 255).astype(np.uint8) for photo in photos[:10]]
    monkeypatch.setattr("finetune.data.alike._MOST_PAIRS", 200)
    said = []
    found = alike(photos, said.append)
    assert set(found) == {(index, index + 300) for index in range(10)}
    assert len(said) == 1
    assert "only the 200 most alike were compared" in said[0]
    assert alike(photos[:10] + photos[300:], said.append) == [(i, i + 10) for i in range(10)]
    assert len(said) == 1


def changed(picture: Image.Image, how: str, rng: np.random.Generator) -> np.ndarray:
    """Saved again as JPEG, and also cropped by 5 %, shifted by 2 % or mirrored, at the size of
    224.
    """
    width, height = picture.size
    if how == "cropped":
        kept = (int(0.95 * width), int(0.95 * height))
        x, y = (
            int(rng.integers(0, whole - part + 1))
            for whole, part in zip(picture.size, kept, strict=True)
        )
        picture = picture.crop((x, y, x + kept[0], y + kept[1]))
    if how == "shifted":
        dx, dy = (rng.choice((-0.02, 0.02)) * side for side in picture.size)
        picture = picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, dx, 0, 1, dy))
    if how == "mirrored":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=60)
    return decode(file.getvalue(), 224)


@pytest.mark.parametrize("how", ["saved again", "cropped", "shifted", "mirrored"])
def test_real_photos_that_were_changed_are_found_and_others_are_not(cats_and_dogs, how):
    rng = np.random.default_rng(0)
    paths = sorted((cats_and_dogs / "test").rglob("*.jpg"))[::14]
    originals = [thumbnail(decode(path.read_bytes(), 224)) for path in paths]
    copies = []
    for path in paths:
        with Image.open(path) as picture:
            copies.append(thumbnail(changed(picture.convert("RGB"), how, rng)))
    n = len(paths)
    found = set(alike([*originals, *copies]))
    right = {(i, i + n) for i in range(n)}
    assert len(found & right) >= 0.98 * n
    assert not found - right


def test_real_photos_hold_one_picture_twice(cats_and_dogs):
    dataset = read_folder(cats_and_dogs)
    chosen = [p for p in dataset.photos if re.search(r"\.(41[12]\d|457\d|1[0-4]\d)\.", p.file)]
    assert len(chosen) == 160
    report = audit(replace(dataset, photos=tuple(chosen)))
    assert report["near_duplicates"] == [["validation/cats/cat.4126.jpg", "test/cats/cat.4575.jpg"]]


# Warnings


def counted(root: Path, **splits: tuple[int, int]) -> Path:
    for split, counts in splits.items():
        for name, n in zip(("cats", "dogs"), counts, strict=True):
            for i in range(n):
                path = root / split / name / f"{i // 2}_{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(path.as_posix())
    return root


def test_an_even_data_set_of_some_size_is_warned_of_nothing(tmp_path):
    root = counted(tmp_path, train=(50, 50), validation=(25, 25), test=(20, 20))
    assert warnings_of(read_folder(root)) == []


def test_imbalance_is_warned_of_with_the_setting_that_helps(tmp_path):
    root = counted(tmp_path, train=(50, 200), validation=(25, 25), test=(20, 80))
    dataset = read_folder(root)
    (warning,) = warnings_of(dataset)
    assert "imbalance" in warning
    assert "--set class_weight=balanced" in warning
    assert majority_baseline(dataset) == 0.8
    for balanced in ({"class_weight": "balanced"}, {"sampling": "balanced"}):
        (warning,) = warnings_of(dataset, load(None, balanced).is_balanced)
        assert "already" in warning
        assert "--set" not in warning, "together they are refused"


def test_the_majority_is_that_of_the_test_photos_as_in_the_measures(tmp_path):
    root = counted(tmp_path, train=(50, 200), validation=(25, 25), test=(60, 40))
    dataset = read_folder(root)
    (warning,) = warnings_of(dataset)
    measured = summarize(np.full((100, 2), 0.5), dataset.labels("test"))["majority_baseline"]
    assert majority_baseline(dataset) == measured == 0.6
    assert "most frequent class of the test photos has an accuracy of 60.0 %" in warning


def test_small_splits_are_warned_of(tmp_path):
    root = counted(tmp_path, train=(50, 50), validation=(9, 9), test=(19, 20))
    test, validation = warnings_of(read_folder(root))
    assert "1 class has fewer than 20 test photos ('cats' 19)" in test
    assert "18 photos" in validation


def test_groups_across_split_folders_are_warned_of(tmp_path):
    root = counted(tmp_path, train=(50, 50), validation=(25, 25), test=(20, 20))
    dataset = groups(read_folder(root), "([0-9]+)_")
    (warning,) = warnings_of(dataset)
    assert "13 groups of photos stand in more than one split: figures may flatter." in warning
    assert audit(dataset)["groups_crossing"] == sorted(map(str, range(13)))


def test_many_classes_have_a_summary(tmp_path):
    for name in range(40):
        for i in range(3 + name):
            path = tmp_path / f"{name:02d}" / f"{i}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_text(path.as_posix())
    summary = audit(read_folder(tmp_path))["classes_summary"]
    assert summary["classes"] == 40
    assert summary["largest"][0] == ["39", 42]
    assert summary["smallest"][0] == ["00", 3]
    assert len(summary["largest"]) == len(summary["smallest"]) == 5


# Figures


@pytest.mark.parametrize("n", [1, 7, 100, 1000])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 1.0])
def test_half_width_is_wilsons(n, accuracy):
    right = round(accuracy * n)
    wilson = binomtest(right, n).proportion_ci(method="wilson")
    assert half_width(n, right / n) == pytest.approx((wilson.high - wilson.low) / 2, rel=1e-6)


@pytest.mark.parametrize("help_only", [True, False])
def test_check_imports_nothing_heavy(photos, help_only):
    """Modules and no seconds: a machine may be busy."""
    heavy = "{'tensorflow', 'keras', 'pandas', 'scipy', 'sklearn', 'matplotlib', 'openvino'}"
    script = (
        "import sys; sys.argv = ['finetune', 'check', "
        f"{'--help' if help_only else str(photos)!r}]\n"
        f"from finetune.cli.app import main\ntry:\n    main()\nfinally:\n    print(sorted({heavy} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
