"""`finetune ensemble`: finished runs combined into one model."""

from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from finetune.backend import load_keras
from finetune.errors import UsageError
from finetune.progress import SILENT, Reporter

Blend = Literal["mean", "weighted", "soup"]


def ensemble(
    *runs: Path | str,
    blend: Blend = "mean",
    precision: str | None = None,
    out: Path | str | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Combine runs into one model by the mean of their probabilities, or of their weights, and test
    whether that pays.

    Args:
        runs: two or more folders of finished runs on the same photos.
        blend: ``mean``, or ``weighted`` by the lowest log loss on validation; or ``soup``, the mean
            of the weights of runs of one architecture, each taken if it lowers the validation loss.
        precision: score the joined model on the members' photos anew, in auto, float32 or
            bfloat16; None blends what the members' runs predicted, each in its own precision.
        out: the folder, which opens like that of a run; a new one in ``runs/`` if missing.
        reporter: where progress is reported.

    Returns:
        What ``ensemble --json`` prints; also ``metrics.json``. ``against_best`` compares it on the
        test photos with the member of the lowest validation loss.

    Raises:
        UsageError: fewer than two runs, one given twice, an ensemble, runs that take their photos
            in different ways, ``out`` holds a finished run, or a precision that cannot be had.
        DataError: no finished run, runs on other photos or classes, or photos that are gone.
        IntegrityError: a member's model is damaged, or the joined model differs from its members.
        BusyError: another process works in ``out``.
    """
    if blend not in get_args(Blend):
        allowed = ", ".join(get_args(Blend))
        raise UsageError(f"blend is '{blend}'; allowed are {allowed}.")
    if precision == "int8":
        raise UsageError(
            "precision is 'int8', for which a run is calibrated with photos, and a joined model is "
            "not. Allowed are auto, float32 and bfloat16, or leave it out."
        )
    load_keras()  # before all that imports it: it keeps TensorFlow quiet
    from finetune.execution.ensembling import combine

    folder = Path(out or Path("runs", f"ensemble-{datetime.now():%Y%m%d-%H%M%S-%f}"))
    return combine([Path(run) for run in runs], folder, blend, precision, reporter)
