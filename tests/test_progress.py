"""What a person reads on stderr."""

import io

from finetune.progress import SILENT, Reporter, count


def test_numbers_have_their_nouns():
    assert [count(n, "photo") for n in (0, 1, 1200)] == ["0 photos", "1 photo", "1,200 photos"]
    assert count(2, "cache entry") == "2 cache entries"


def test_the_epoch_before_training_is_called_so_and_silence_is_silent(capsys):
    file = io.StringIO()
    row = {"phase": "tail", "epoch": 0, "val_loss": 0.5, "val_accuracy": 0.75, "seconds": 1.0}
    Reporter(file=file).epoch(row)
    assert "tail, before training: validation loss 0.5000" in file.getvalue()
    SILENT.warn("nothing")
    SILENT.epoch(row)
    assert capsys.readouterr().err == ""
