"""What people see of progress: lines in a log, bars on a terminal."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from lesionwise.cli import console
from lesionwise.cli.console import Reporter


@pytest.fixture
def log(monkeypatch):
    """A reporter whose clock moves ten seconds with every look, and what it wrote."""
    ticks = iter(range(0, 10_000, 10))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(ticks)))
    written = io.StringIO()
    return Reporter(Console(file=written, width=200)), written


def test_a_log_tells_how_far_a_scan_of_many_is_but_not_its_end(log):
    reporter, written = log
    for done in (1, 2, 3, 4):
        reporter.within("sub-01", "explain", done, 4)
    assert written.getvalue().splitlines() == [
        "sub-01 explaining: 75 % after 20 s, about 7 s left",
    ]
    reporter.step("study", 1, 1)
    assert written.getvalue().splitlines()[-1] == "Scans: 100 % after 0 s"


def test_on_a_terminal_a_finished_stage_of_a_scan_leaves_the_screen():
    with Progress(console=Console(file=io.StringIO(), force_terminal=True)) as bar:
        reporter = Reporter(bar.console, bar)
        reporter.step("study", 0, 2)
        reporter.within("sub-01", "explain", 1, 2)
        assert [task.description for task in bar.tasks] == ["Scans", "sub-01 explaining"]
        reporter.within("sub-01", "explain", 2, 2)
        assert [task.description for task in bar.tasks] == ["Scans"]
