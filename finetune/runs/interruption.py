"""What a command says when it is interrupted: what is saved at that moment, and how to go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import Terminated
from finetune.progress import Reporter


@contextmanager
def said_if_interrupted(saved: Callable[[], str], reporter: Reporter) -> Iterator[None]:
    """Ctrl-C and SIGTERM pass through; what ``saved`` finds on the disk is said before."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        reporter.warn(f"Interrupted: {saved()}")
        raise


def saved_run(folder: Path) -> str:
    """What of a run is on the disk now, and the command that goes on with it."""
    if (folder / "metrics.json").exists():
        return f"the run is finished; it is in {folder}."
    if not (folder / "recipe.yaml").exists():
        return "nothing was begun. Give the same command again."
    checkpoint = folder / "checkpoint.npz"
    found = checkpoint.exists()
    epoch = f"the last whole epoch is in {checkpoint}" if found else "no epoch was finished"
    return f"{epoch}; stored activations are kept. Go on with `finetune run --resume {folder}`."
