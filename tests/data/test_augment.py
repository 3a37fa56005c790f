"""Random views are a pure function of photo, settings and key, and do what their settings say."""

import os
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from finetune.data.augment import NONE, PRESETS, augment
from finetune.data.randaugment import OPERATIONS

ALL = {
    "flip": True,
    "rotation": 40.0,
    "zoom": 0.2,
    "shear": 11.0,
    "translation": 0.2,
    "contrast": 0.3,
    "randaugment": 9.0,
    "erasing": 1.0,
}


def gradient(size: int = 32) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.stack([255 * x // size, 255 * y // size, (x * y) % 256], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("settings", [*PRESETS.values(), ALL])
def test_the_same_key_gives_the_same_view(settings: dict) -> None:
    view = augment(gradient(), settings, "epoch 1/photo 7")
    assert view.shape == (32, 32, 3)
    assert view.dtype == np.uint8
    np.testing.assert_array_equal(view, augment(gradient(), settings, "epoch 1/photo 7"))


def test_the_same_key_gives_the_same_view_in_another_process() -> None:
    code = (
        "from hashlib import sha256; from test_augment import ALL, augment, gradient;"
        "print(sha256(augment(gradient(), ALL, 'key').tobytes()).hexdigest())"
    )
    paths = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "5"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == sha256(augment(gradient(), ALL, "key").tobytes()).hexdigest()


@pytest.mark.parametrize("name", [name for name in NONE if name != "flip"])
def test_views_of_different_keys_differ(name: str) -> None:
    views = {augment(gradient(), NONE | {name: ALL[name]}, str(key)).tobytes() for key in range(20)}
    assert (
        len(views) >= 18
    )  # two keys may draw values so near to each other that no pixel tells them apart


@pytest.mark.parametrize("settings", [*PRESETS.values(), ALL])
def test_the_photo_is_never_changed(settings: dict) -> None:
    photo = gradient()
    for key in range(5):
        augment(photo, settings, str(key))
    np.testing.assert_array_equal(photo, gradient())
    photo.flags.writeable = False
    augment(photo, settings, "0")


def test_none_is_the_identity() -> None:
    assert PRESETS["none"] == NONE
    for key in range(20):
        np.testing.assert_array_equal(augment(gradient(), NONE, str(key)), gradient())


def test_flip_mirrors_half_of_the_views_exactly() -> None:
    photo = gradient(33)
    mirrored = 0
    for key in range(200):
        view = augment(photo, NONE | {"flip": True}, f"key {key}")
        flipped = np.array_equal(view, photo[:, ::-1])
        assert flipped or np.array_equal(view, photo)
        mirrored += flipped
    assert 70 <= mirrored <= 130  # four standard deviations


@pytest.mark.parametrize(
    "settings", [PRESETS["light"], ALL | {"contrast": 0.0, "randaugment": 0.0, "erasing": 0.0}]
)
def test_nothing_but_the_photo_shows_beyond_the_border(settings: dict) -> None:
    white = np.full((24, 24, 3), 255, np.uint8)
    for key in range(100):
        assert (augment(white, settings, str(key)) == 255).all()


def test_extreme_settings_show_no_black_beyond_the_border() -> None:
    white = np.full((24, 24, 3), 255, np.uint8)
    settings = NONE | {"rotation": 180.0, "zoom": 0.5, "shear": 45.0, "translation": 0.5}
    for key in range(300):
        assert (augment(white, settings, str(key)) == 255).all()


def dot_positions(settings: dict, n: int = 100) -> np.ndarray:
    """(n, 2) x, y of where a dot right of the centre goes, in sides from the centre."""
    size, photo = 64, np.zeros((64, 64, 3), np.uint8)
    photo[31:33, 43:45] = 255  # centred 12 pixels to the right
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    views = (augment(photo, settings, str(key))[..., 0].astype(float) for key in range(n))
    return (
        np.array([[(x * view).sum() / view.sum(), (y * view).sum() / view.sum()] for view in views])
        / size
    )


def test_rotation_turns_about_the_centre_within_its_angle() -> None:
    x, y = dot_positions(NONE | {"rotation": 30.0}).T
    np.testing.assert_allclose(np.hypot(x, y), 12 / 64, atol=0.004)
    angle = np.degrees(np.arctan2(y, x))
    assert -31 < angle.min() < -25
    assert 25 < angle.max() < 31


def test_zoom_scales_about_the_centre_within_its_range() -> None:
    x, y = dot_positions(NONE | {"zoom": 0.3}).T
    np.testing.assert_allclose(y, 0, atol=0.004)
    scale = x / (12 / 64)
    assert 0.67 < scale.min() < 0.75
    assert 1.25 < scale.max() < 1.33


def test_translation_moves_within_its_range() -> None:
    x, y = dot_positions(NONE | {"translation": 0.1}).T
    for moved in (x - 12 / 64, y):
        assert -0.105 < moved.min() < -0.08
        assert 0.08 < moved.max() < 0.105


def test_contrast_changes_contrast_alone() -> None:
    flat = np.full((16, 16, 3), 100, np.uint8)
    spread = []
    for key in range(50):
        settings = NONE | {"contrast": 0.5}
        np.testing.assert_array_equal(augment(flat, settings, str(key)), flat)
        spread.append(
            augment(gradient() // 2 + 64, settings, str(key)).std() / (gradient() // 2 + 64).std()
        )
    assert 0.45 < min(spread) < 0.65
    assert 1.35 < max(spread) < 1.55


def test_erasing_leaves_one_rectangle_of_noise_within_its_share() -> None:
    photo = gradient(48)
    erased = []
    for key in range(60):
        view = augment(photo, NONE | {"erasing": 0.5}, str(key))
        changed = (view != photo).any(axis=-1)
        if changed.any():
            rows, columns = np.nonzero(changed)
            box = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert box.mean() > 0.98, "noise may hit a pixel's own value"
            erased.append(box.size / changed.size)
    assert 18 <= len(erased) <= 42  # four standard deviations
    assert min(erased) > 0.01
    assert max(erased) < 0.35


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_randaugment_keeps_the_size_and_grows_with_its_strength(name) -> None:
    photo = Image.fromarray(np.minimum(gradient(32), 200))
    far = [np.asarray(OPERATIONS[name](photo, by)) for by in (0.2, 1.0)]
    changes = [np.abs(view.astype(int) - np.asarray(photo)).mean() for view in far]
    assert {view.shape for view in far} == {(32, 32, 3)}
    assert changes[1] >= changes[0]
    assert (changes[1] > 0) == (name != "identity")


def test_randaugment_without_strength_leaves_what_has_one() -> None:
    photo = Image.fromarray(gradient(32))
    for name, operation in OPERATIONS.items():
        if name not in ("autocontrast", "equalize"):  # which know none
            np.testing.assert_array_equal(np.asarray(operation(photo, 0.0)), gradient(32), name)
