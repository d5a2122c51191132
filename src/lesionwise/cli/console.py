"""What people see while a command works: one progress line on a terminal, a log line at a time elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

STAGES = {
    "predict": "Predicting",
    "explain": "Explaining",
    "study": "Scans",
    "prepare": "Preparing",
    "train": "Training",
    "rows": "Experiment",
    "benchmark": "Benchmark",
}
LOG_EVERY_S = 15.0


@dataclass
class Reporter:
    """Takes progress (`stage, done, total`) and sentences, and shows them."""

    console: Console
    bar: Progress | None = None
    tasks: dict[str, TaskID] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)

    def step(self, stage: str, done: int, total: int) -> None:
        """Progress of one stage."""
        name = STAGES.get(stage, stage)
        if self.bar is not None:
            self._draw(self.bar, stage, name, done, total)
        else:
            self._log(stage, name, done, total, ends=True)

    def within(self, unit: str, stage: str, done: int, total: int) -> None:
        """Progress of one stage of one scan of many: a line of its own on a terminal until it is done, else a log line now and
        then, but none at its end, which the count of scans tells."""
        key, name = f"{unit} {stage}", f"{unit} {STAGES.get(stage, stage).lower()}"
        if self.bar is None:
            self._log(key, name, done, total, ends=False)
        elif done < total:
            self._draw(self.bar, key, name, done, total)
        elif key in self.tasks:
            self.bar.remove_task(self.tasks.pop(key))

    def _draw(self, bar: Progress, key: str, name: str, done: int, total: int) -> None:
        if key not in self.tasks:
            self.tasks[key] = bar.add_task(name, total=total)
        bar.update(self.tasks[key], completed=done, total=total)

    def _log(self, key: str, name: str, done: int, total: int, *, ends: bool) -> None:
        now = time.monotonic()
        start = self.started.setdefault(key, now)
        over = done >= total and ends
        if not over and now - self.logged.get(key, start) < LOG_EVERY_S:
            return
        self.logged[key] = now
        elapsed = now - start
        left = f", about {elapsed * (total - done) / done:.0f} s left" if 0 < done < total else ""
        self.say(f"{name}: {100 * done / max(total, 1):.0f} % after {elapsed:.0f} s{left}")

    def say(self, sentence: str) -> None:
        """One line for people."""
        (self.bar.console if self.bar is not None else self.console).print(
            sentence, highlight=False, markup=False, soft_wrap=True
        )


@contextmanager
def reporting() -> Iterator[Reporter]:
    """A reporter on stderr for the length of a command; standard output stays free for results."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield Reporter(console)
        return
    with Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        yield Reporter(console, bar)
