"""What a person sees on stderr while a command works: live bars on a terminal, plain lines
elsewhere.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def count(n: int, noun: str) -> str:
    """A number with its noun: ``1 photo``, ``1,200 photos``, ``2 entries``, ``2 batches``."""
    return f"{n:,} {noun if n == 1 else _plural(noun)}"


def _plural(noun: str) -> str:
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    hisses = noun.endswith(("s", "tch"))  # classes, batches; but epochs
    return f"{noun}es" if hisses else f"{noun}s"


def visible(text: str) -> str:
    """Text for a terminal or a log: what does not print (control sequences, bytes of a file name
    that are no UTF-8) as Python escapes it; line ends stay.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class Reporter:
    """Talks to stderr; stdout belongs to data. NO_COLOR and pipes are honoured by rich.

    Args:
        quiet: report nothing but warnings.
        file: report to this instead.
        silent: report nothing at all.
    """

    def __init__(self, quiet: bool = False, file: TextIO | None = None, silent: bool = False):
        self.console = Console(
            stderr=file is None, file=file, highlight=False, soft_wrap=True, quiet=silent
        )
        self._quiet = quiet or silent

    @property
    def live(self) -> bool:
        """Whether bars and tables may move."""
        return self.console.is_terminal and not self._quiet

    def say(self, text: str) -> None:
        """One line of progress."""
        if not self._quiet:
            self.console.print(escape(visible(text)))

    def warn(self, text: str) -> None:
        """One line that must not be missed."""
        self.console.print(f"[yellow]warning:[/] {escape(visible(text))}")

    @contextmanager
    def stage(self, name: str, total: int, noun: str = "photo") -> Iterator[Callable[[int], None]]:
        """A bar for a stage of known length; yields the function that advances it.

        Reports at the end how long the stage took; nothing at all for a stage of length 0.
        """
        start = time.perf_counter()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(_plural(noun)),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.live
        ) as progress:
            task = progress.add_task(name, total=total)
            yield lambda steps: progress.update(task, advance=steps)
            done = int(progress.tasks[task].completed)
        if total:
            self.say(f"{name}: {count(done, noun)} in {time.perf_counter() - start:.1f} s")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """One line for a row of the training history."""
        figures = (
            f"validation loss {row['val_loss']:.4f}, validation accuracy {row['val_accuracy']:.4f}"
        )
        if not row["epoch"]:
            self.say(f"  {row['phase']}, before training: {figures}")
            return
        self.say(
            f"  {row['phase']}, epoch {row['epoch']}: loss {row['loss']:.4f}, {figures} "
            f"({row['seconds']:.1f} s)"
        )


SILENT = Reporter(silent=True)


class Warnings:
    """What the run warns of, kept for its result."""

    def __init__(self, reporter: Reporter, texts: Sequence[str]):
        self.texts: list[str] = []
        self._reporter = reporter
        for text in texts:
            self.add(text)

    def add(self, text: str | None, is_shown_elsewhere: bool = False) -> None:
        """Warn, if there is anything to warn of; keep it unless the result says it in figures."""
        if text:
            self._reporter.warn(text)
        if text and not is_shown_elsewhere:
            self.texts.append(text)
