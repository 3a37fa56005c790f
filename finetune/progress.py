"""What a person sees on stderr while a command works: live bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter:
    """Talks to stderr; stdout belongs to data. NO_COLOR and pipes are honoured by rich.

    Args:
        quiet: say nothing but warnings.
        file: talk to this instead.
    """

    def __init__(self, quiet: bool = False, file: TextIO | None = None):
        self.console = Console(stderr=file is None, file=file, highlight=False, soft_wrap=True)
        self._quiet = quiet

    @property
    def live(self) -> bool:
        """Whether bars and tables may move."""
        return self.console.is_terminal and not self._quiet

    def say(self, text: str) -> None:
        """One line of progress."""
        if not self._quiet:
            self.console.print(escape(text))

    def warn(self, text: str) -> None:
        """One line that must not be missed."""
        self.console.print(f"[yellow]warning:[/] {escape(text)}")

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "photos") -> Iterator[Callable[[int], None]]:
        """A bar for a stage of known length; yields the function that advances it. Says how long the stage took."""
        start = time.perf_counter()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.live
        ) as progress:
            task = progress.add_task(name, total=total)
            yield lambda steps: progress.update(task, advance=steps)
            done = int(progress.tasks[task].completed)
        self.say(f"{name}: {done:,} {unit} in {time.perf_counter() - start:.1f} s")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """One line for a row of the training history."""
        trained = f"loss {row['loss']:.4f}, " if row["epoch"] else ""
        figures = f"{trained}validation loss {row['val_loss']:.4f}, validation accuracy {row['val_accuracy']:.4f}"
        self.say(f"  {row['phase']} epoch {row['epoch']}: {figures} ({row['seconds']:.1f} s)")


SILENT = Reporter(quiet=True)


def count(number: int, thing: str) -> str:
    """A number with its noun: ``count(1, "photo") == "1 photo"``, ``"1,200 photos"``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
