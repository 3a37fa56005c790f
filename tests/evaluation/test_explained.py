"""What a run shows of its test photos: which ones, and heat from stored activations as from the
photos.
"""

import io

import numpy as np
import pytest
from PIL import Image
from report_cells import add_cell, write

from finetune.backend import load_keras
from finetune.data.dataset import read_folder
from finetune.data.photos import decode
from finetune.evaluation import explained
from finetune.evaluation.explained import explain_test, telling
from finetune.evaluation.overlays import spread
from finetune.progress import SILENT, Reporter


@pytest.fixture(scope="module")
def whole():
    load_keras()
    import keras

    from finetune.model.base import build_base
    from finetune.model.heads import add_head

    keras.utils.set_random_seed(0)
    return add_head(build_base("vgg16", 64), 2, "gap")


def pixels(dataset) -> np.ndarray:
    photos = dataset.split("test")
    return np.stack([decode(photo.path.read_bytes(), 64, "pad") for photo in photos])


def test_telling_photos_are_the_surest_by_turns_and_the_worst_mistakes():
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    of_class_0 = [[0.9, 0.1, 0], [0.99, 0.01, 0], [0.05, 0.95, 0]]
    of_class_1 = [[0.3, 0.7, 0], [0.2, 0.8, 0], [0.6, 0.4, 0]]
    probabilities = np.array([*of_class_0, *of_class_1, [0, 0.5, 0.5], [0.4, 0.3, 0.3]])
    right, wrong = telling(probabilities, labels)
    assert (right.tolist(), wrong.tolist()) == ([1, 4, 0, 3], [2, 7, 5, 6])
    right, wrong = telling(probabilities[[2, 5]], labels[[2, 5]])
    assert (right.tolist(), wrong.tolist()) == ([], [0, 1])


@pytest.mark.parametrize("cut", ["block5_pool", "block4_pool"])
def test_stored_activations_give_the_heat_of_the_photos(whole, cut, photos, monkeypatch):
    """Through the tail, whatever the cut; here it is computed again by the whole network."""
    from finetune.evaluation.gradcam import grad_cam
    from finetune.model.cut import split

    dataset = read_folder(photos)
    batch = pixels(dataset)
    parts = split(whole, cut)
    rows = np.asarray(parts.trunk(batch))
    probabilities = whole(batch, training=False).numpy()
    chosen = np.concatenate(telling(probabilities, dataset.labels("test")))
    (heats,) = grad_cam(whole, batch[chosen], (), probabilities[chosen].argmax(axis=1))
    taken = []
    draw = explained.overlay
    monkeypatch.setattr(
        explained, "overlay", lambda photo, heat: taken.append(heat) or draw(photo, heat)
    )
    inputs = rows.__getitem__
    assert explain_test(parts.tail, inputs, dataset, probabilities, "pad", SILENT) is not None
    for found, heat in zip(taken, heats, strict=True):
        np.testing.assert_allclose(found, spread(heat, (224, 168), "pad"), atol=0.02 * heats.max())


def test_photos_that_vanish_during_training_cost_no_run(whole, photos, capsys):
    from finetune.model.cut import split

    dataset = read_folder(photos)
    parts = split(whole, "block5_pool")
    rows = np.asarray(parts.trunk(pixels(dataset)))
    probabilities = np.asarray(parts.tail(rows))
    chosen = np.concatenate(telling(probabilities, dataset.labels("test")))
    files = [dataset.split("test")[index].path for index in chosen]
    files[0].unlink()
    inputs = rows.__getitem__
    assert explain_test(parts.tail, inputs, dataset, probabilities, "pad", Reporter()) is not None
    assert f"{files[0]} is not explained" in capsys.readouterr().err.replace("\n", "")
    for file in files[1:]:
        file.unlink()
    assert explain_test(parts.tail, rows.__getitem__, dataset, probabilities, "pad", SILENT) is None


def test_the_report_shows_the_sheet_of_the_recommended_recipe_only_with_photos(tmp_path):
    out, root = tmp_path / "out", tmp_path
    cells = [
        add_cell(out, "cheap", wrong=0, seconds=1),
        add_cell(out, "dear", wrong=30, seconds=99),
    ]
    for cell, color in zip(cells, ("red", "blue"), strict=True):
        Image.new("RGB", (321, 123), color).save(out / cell["run"] / "explanations.png")
    write(out, cells, root)
    page = (out / "report.html").read_text()
    assert page.count('<img class="sheet" src="data:image/jpeg;base64,') == 1
    assert 'width="321" height="123"' in page
    assert "Where cheap looks" in page
    from base64 import b64decode

    shown = page.partition('class="sheet" src="data:image/jpeg;base64,')[2].partition('"')[0]
    assert Image.open(io.BytesIO(b64decode(shown))).getpixel((5, 5))[0] > 200, "the red one"
    write(out, cells, None)
    assert "sheet" not in (out / "report.html").read_text().partition("</style>")[2]
    (out / cells[0]["run"] / "explanations.png").unlink()
    write(out, cells, root)
    assert 'class="sheet"' not in (out / "report.html").read_text()
