"""`finetune check`: what is wrong is found, named and nothing else; the real photos hold one picture twice."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import finetune, paint
from PIL import Image
from statsmodels.stats.proportion import proportion_confint

from finetune.data.audit import NEAR, SMALLEST_HASHED, audit, difference_hash, half_width
from finetune.data.dataset import find_bad, read_folder


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
    done = finetune("check", photos, "--json")
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
    text = finetune("-q", "check", photos, "--size", 32)
    assert (text.returncode, text.stderr) == (0, "")
    assert re.search(r"^  together +12 +7 +7$", text.stdout, re.MULTILINE)
    assert "26 photos are smaller than 32 px" in text.stdout
    assert "cannot be decoded: none" in text.stdout
    assert "7 test photos tell an accuracy of 90 % to about ± 22." in text.stdout


def test_every_fault_is_named_and_ends_with_3(faulty):
    done = finetune("check", faulty, "--json")
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
    text = finetune("check", faulty).stdout
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


def test_a_folder_without_splits_and_what_is_no_data_set(tmp_path, photos):
    for i in range(12):
        paint(tmp_path / "loose" / ("a", "b")[i % 2] / f"{i}.png", (10 * i, 99, 30), seed=i)
    done = finetune("check", tmp_path / "loose")
    assert done.returncode == 0
    assert "split: drawn by content, 60/20/20" in done.stdout
    for wrong, word in (
        (tmp_path / "nowhere", "neither a folder nor the name"),
        (photos / "train/plums", "no class"),
    ):
        done = finetune("check", wrong, "--json")
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
            size=(99, SMALLEST_HASHED - 1),
            compress_level=len(split),
        )
    assert near(photos) == []
    for split in ("train", "test"):
        scene(
            photos / split / "apples/small.png",
            seed=5,
            size=(99, SMALLEST_HASHED),
            compress_level=len(split),
        )
    assert near(photos) == [["train/apples/small.png", "test/apples/small.png"]]


def test_the_hash_is_the_signs_of_horizontal_steps():
    rising = np.broadcast_to(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], (80, 90, 3))
    assert difference_hash(rising) == 2**64 - 1
    assert difference_hash(rising[:, ::-1]) == 0
    half = np.where(np.arange(80)[:, None, None] < 40, rising, rising[:, ::-1])
    assert difference_hash(half) == (2**32 - 1) << 32, "the first row is the highest byte"


def test_real_photos_saved_again_stay_near_and_different_ones_do_not(cats_and_dogs):
    """The whole set, measured once: of 8 million pairs two are within NEAR, both the same picture; the next is at 7."""
    dataset = read_folder(cats_and_dogs)
    chosen = [
        photo for photo in dataset.photos if re.search(r"\.(41[12]\d|457\d|1[0-4]\d)\.", photo.file)
    ]
    assert len(chosen) == 160
    report = audit(replace(dataset, photos=tuple(chosen)))
    assert report["near_duplicates"] == [["validation/cats/cat.4126.jpg", "test/cats/cat.4575.jpg"]]
    for photo in chosen[:10]:
        with Image.open(photo.path) as picture:
            small = picture.resize((picture.width // 2, picture.height // 2))
            distance = difference_hash(np.asarray(picture)) ^ difference_hash(np.asarray(small))
        assert distance.bit_count() <= NEAR


# Figures


@pytest.mark.parametrize("n", [1, 7, 100, 1000])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 1.0])
def test_half_width_is_wilsons(n, accuracy):
    low, high = proportion_confint(accuracy * n, n, method="wilson")
    assert half_width(n, accuracy) == pytest.approx((high - low) / 2, rel=1e-6)


@pytest.mark.parametrize("help_only", [True, False])
def test_check_imports_nothing_heavy(photos, help_only):
    """Modules and no seconds: a machine may be busy."""
    heavy = "{'tensorflow', 'keras', 'pandas', 'scipy', 'sklearn', 'matplotlib', 'openvino'}"
    script = (
        f"import sys; sys.argv = ['finetune', 'check', {'--help' if help_only else str(photos)!r}]\n"
        f"from finetune.cli.app import main\ntry:\n    main()\nfinally:\n    print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
