"""What a person reads on stderr."""

import io
import os

from finetune.progress import SILENT, Reporter, count


def test_numbers_have_their_nouns():
    assert [count(n, "photo") for n in (0, 1, 1200)] == ["0 photos", "1 photo", "1,200 photos"]
    assert count(2, "cache entry") == "2 cache entries"
    assert [count(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]
    assert count(2, "epoch") == "2 epochs"


def test_the_epoch_before_training_is_called_so_and_silence_is_silent(capsys):
    file = io.StringIO()
    row = {"phase": "tail", "epoch": 0, "val_loss": 0.5, "val_accuracy": 0.75, "seconds": 1.0}
    Reporter(file=file).epoch(row)
    assert "tail, before training: validation loss 0.5000" in file.getvalue()
    SILENT.warn("nothing")
    SILENT.epoch(row)
    assert capsys.readouterr().err == ""


def test_what_is_reported_cannot_steer_a_terminal_or_break_a_log(tmp_path):
    name = b"caf\xe9\x1b]0;title\x07 \xe2\x80\xae.jpg"
    with (tmp_path / "log.txt").open("w", encoding="utf-8") as log:
        Reporter(file=log).warn(os.fsdecode(name) + "\nnext line")
    expected = "warning: caf\\udce9\\x1b]0;title\\x07 \\u202e.jpg\nnext line\n"
    assert (tmp_path / "log.txt").read_text("utf-8") == expected
