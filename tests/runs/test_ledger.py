"""The ledger of a test split counts models and comparisons, each once."""

import errno
from pathlib import Path

import pytest

from finetune.files import cache_dir
from finetune.runs import ledger


def run(folder: Path, name: str, predictions: str) -> Path:
    path = folder / name
    path.mkdir()
    (path / "predictions.csv").write_text(predictions)
    (path / "recipe.yaml").write_text(f"seed: {name}")
    return path


def test_each_model_and_each_comparison_counts_once(tmp_path):
    a, b, c = (run(tmp_path, name, "same") for name in "012")
    assert ledger.read("digest") == {"models": 0, "comparisons": 0}
    assert ledger.record("digest", [a], comparison=False) == {"models": 1, "comparisons": 0}
    assert ledger.record("digest", [a, b]) == {"models": 2, "comparisons": 1}
    assert ledger.record("digest", [b, a]) == {"models": 2, "comparisons": 1}
    assert ledger.record("digest", [a, b, c]) == {"models": 3, "comparisons": 2}, "a seed was added"
    assert ledger.read("other") == {"models": 0, "comparisons": 0}


def test_a_run_that_predicts_something_else_is_another_model(tmp_path):
    one = run(tmp_path, "0", "before")
    ledger.record("digest", [one])
    (one / "predictions.csv").write_text("after")
    assert ledger.record("digest", [one]) == {"models": 2, "comparisons": 0}


def test_the_ledger_lies_in_the_cache(tmp_path):
    ledger.record("digest", [run(tmp_path, "0", "x")])
    assert (cache_dir() / "ledger" / "digest.json").is_file()


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"models": 1, "comparisons": []}', "{"])
def test_a_damaged_ledger_stops_nothing_and_begins_anew(tmp_path, damage):
    one = run(tmp_path, "0", "x")
    ledger.record("digest", [one])
    (cache_dir() / "ledger" / "digest.json").write_text(damage)
    assert ledger.record("digest", [one]) == {"models": 1, "comparisons": 0}


def test_a_cache_that_may_only_be_read_stops_no_finished_run(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(ledger, "writing", refused)
    assert ledger.record("digest", [run(tmp_path, "0", "x")]) == {"models": 0, "comparisons": 0}
