"""The live table of a comparison."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from rich.live import Live
from rich.table import Table

from finetune.progress import Reporter
from finetune.recipe.matrix import Trial


@dataclass
class Board:
    """The live table of a comparison; plain lines where stderr is no terminal.

    ``note`` stands below it.
    """

    trials: Sequence[Trial]  # in the order in which they run
    reporter: Reporter
    note: str = ""
    status: dict[str, str] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    _live: Live | None = None

    def set(self, trial: Trial, status: str) -> None:
        """Note a trial's state."""
        if status == "running":
            self.since[trial.name] = perf_counter()
        elif not self._live:
            self.reporter.say(f"{trial.name}: {status} ({self._seconds(trial):.1f} s)")
        self.status[trial.name] = status
        if self._live:
            self._live.update(self.table())

    def _seconds(self, trial: Trial) -> float:
        now = perf_counter()
        return now - self.since.get(trial.name, now)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table while trials run."""
        if not self.reporter.live:
            yield
            return
        console = self.reporter.console
        with Live(console=console, get_renderable=self.table, refresh_per_second=2) as self._live:
            yield
        self._live = None

    def table(self) -> Table:
        """The trials around the first running one, and how many are in which state."""
        states = [self.status.get(trial.name, "waiting") for trial in self.trials]
        title = ", ".join(f"{n} {state}" for state, n in Counter(states).items())
        table = Table(title=title, title_justify="left", caption=self.note or None)
        table.add_column("trial", no_wrap=True)
        table.add_column("state")
        now = states.index("running") if "running" in states else len(states) - 1
        first = max(0, now - 8)
        shown = zip(self.trials[first : now + 8], states[first : now + 8], strict=True)
        for trial, state in shown:
            seconds = f" {self._seconds(trial):.0f} s" if state == "running" else ""
            table.add_row(trial.name, state + seconds, style=_STYLES.get(state))
        return table


_STYLES: dict[str, str] = {
    "running": "bold",
    "done": "green",
    "failed": "red",
    "diverged": "red",
    "waiting": "dim",
}
