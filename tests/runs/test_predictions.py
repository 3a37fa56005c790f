"""Predictions are read back as they were written, whatever the names look like."""

import numpy as np

from finetune.data.dataset import read_folder
from finetune.files import commit_json
from finetune.runs.predictions import read_predictions
from finetune.runs.record import commit_csv, predictions_table


def test_classes_and_files_that_look_like_formulas_come_back(photos, tmp_path):
    classes = ["'quoted", "=cmd|' calc'!A0"]
    for folder in list(photos.glob("*/*")):
        folder.rename(folder.parent / classes[folder.name == "plums"])
    for file in list(photos.glob("test/*/0.png")):
        file.rename(file.parent / "=1+1.png")
    dataset = read_folder(photos)
    given = {split: np.full((7, 2), 0.5, np.float32) for split in ("validation", "test")}
    commit_csv(tmp_path / "predictions.csv", predictions_table(dataset, given))
    commit_json(tmp_path / "classes.json", list(dataset.classes))
    names, found = read_predictions(tmp_path)
    assert names == classes
    assert found["test"].files == [photo.file for photo in dataset.split("test")]
    assert found["test"].labels.tolist() == dataset.labels("test").tolist()
    cells = (tmp_path / "predictions.csv").read_text().replace("\n", ",").split(",")
    assert not [cell for cell in cells if cell.startswith("=")]
