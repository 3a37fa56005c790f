"""Sketches: deterministic, laid out as promised, and nothing but the cues tells cats from dogs."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from finetune.data.sketches import ANIMALS, CUES, draw_with_mask, write_sketches
from finetune.errors import UsageError


@pytest.mark.parametrize("animal", ANIMALS)
def test_a_seed_is_a_picture(animal):
    first, again, other = (
        draw_with_mask(animal, seed, size=64)[0] for seed in ("one", "one", "two")
    )
    assert first.mode == "RGB"
    assert first.size == (64, 64)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_unknown_animal_is_refused():
    with pytest.raises(UsageError, match=r"'bird'.*cat, dog"):
        draw_with_mask("bird", "one")


def test_write_sketches_lays_out_half_of_each(tmp_path):
    write_sketches(tmp_path / "a", seed=3, counts={"train": 6, "test": 2}, size=32)
    write_sketches(tmp_path / "b", seed=3, counts={"train": 6, "test": 2}, size=32)
    files = sorted(
        path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*.png")
    )
    train = [
        f"train/{animal}s/{animal}.{number:03d}.png" for animal in ANIMALS for number in range(3)
    ]
    assert files == ["test/cats/cat.000.png", "test/dogs/dog.000.png", *train]
    contents = [(tmp_path / "a" / name).read_bytes() for name in files]
    assert contents == [(tmp_path / "b" / name).read_bytes() for name in files]
    assert len(set(contents)) == len(files)
    with Image.open(tmp_path / "a/train/dogs/dog.002.png") as sketch:
        assert sketch.tobytes() == draw_with_mask("dog", "3/train/dog/2", size=32)[0].tobytes()


def test_another_seed_is_another_set(tmp_path):
    for seed in (0, 1):
        write_sketches(tmp_path / str(seed), seed=seed, counts={"test": 2}, size=32)
    cats = [(tmp_path / str(seed) / "test/cats/cat.000.png").read_bytes() for seed in (0, 1)]
    assert cats[0] != cats[1]


@pytest.mark.parametrize("count", [0, 7, -2])
def test_counts_that_cannot_be_halved_are_refused_before_anything_is_written(tmp_path, count):
    with pytest.raises(UsageError, match=f"{count} sketches.*'test'"):
        write_sketches(tmp_path, counts={"train": 2, "test": count})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", map(str, range(12)))
def test_only_the_animal_depends_on_the_species(seed):
    (cat, cat_mask), (dog, dog_mask) = (draw_with_mask(animal, seed, size=96) for animal in ANIMALS)
    differs = (np.asarray(cat) != np.asarray(dog)).any(axis=2)
    animals = cat_mask | dog_mask
    # Lanczos carries an edge a few pixels far.
    near = np.asarray(Image.fromarray(animals).convert("L").filter(ImageFilter.MaxFilter(13))) > 0
    assert not differs[~near].any()
    assert differs[animals].mean() > 0.3


def test_masks_cover_a_part_of_the_picture():
    masks = [
        draw_with_mask(animal, str(seed), size=48)[1] for animal in ANIMALS for seed in range(60)
    ]
    assert {(mask.shape, mask.dtype) for mask in masks} == {((48, 48), np.dtype(bool))}
    cover = np.array([mask.mean() for mask in masks])
    assert cover.min() > 0.03
    assert cover.max() < 0.85
    assert 0.2 < cover.mean() < 0.5


def test_the_cues_suffice():
    """Whoever saw every cue of an animal would hardly ever be wrong: the set is hard, not
    mislabelled.
    """
    catlike = np.array(list(CUES.values()))
    forms = np.array(list(itertools.product((True, False), repeat=len(CUES))))
    likelihood = np.where(forms[:, :, None], catlike, 1 - catlike).prod(axis=1)
    assert likelihood.sum(axis=0) == pytest.approx([1, 1])
    assert likelihood.max(axis=1).sum() / 2 > 0.995


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sketches")
    write_sketches(folder, counts={"train": 200, "test": 200}, size=48)
    return folder


def _file_size(path: Path) -> list[float]:
    return [path.stat().st_size]


def _colours(path: Path) -> np.ndarray:
    """Mean colour and the counts of 4 x 4 x 4 colours."""
    pixels = np.asarray(Image.open(path)).reshape(-1, 3)
    return np.append(pixels.mean(axis=0), np.histogramdd(pixels, bins=4, range=[(0, 256)] * 3)[0])


def _grey_thumbnail(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L").resize((8, 8), Image.Resampling.BOX)).ravel()


def _place_and_size(path: Path) -> list[float]:
    """Centre and area of the animal as it shows."""
    split, (animal, number) = path.parts[-3], path.stem.split(".")
    y, x = np.nonzero(draw_with_mask(animal, f"0/{split}/{animal}/{int(number)}", size=48)[1])
    return [len(x), x.mean(), y.mean()]


@pytest.mark.parametrize("describe", [_file_size, _colours, _grey_thumbnail, _place_and_size])
def test_no_shortcut_tells_cats_from_dogs(splits, describe):
    data = {}
    for split in ("train", "test"):
        paths = sorted((splits / split).rglob("*.png"))
        data[split] = (
            np.array([describe(path) for path in paths]),
            [path.parent.name for path in paths],
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(
        *data["train"]
    )
    assert probe.score(*data["test"]) < 0.65
