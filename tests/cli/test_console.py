"""What people see of progress: lines in a log, bars on a terminal."""

import io
import os
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from lesionwise.cli import console
from lesionwise.cli.console import Reporter
from lesionwise.cli.main import WAITING, main


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


def test_a_terminal_is_told_that_libraries_are_loading(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["report", "--help"]) == 0
    assert capsys.readouterr().err == "lesionwise report: loading\r\x1b[K"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert main(["report", "--help"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("own", [None, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_idle_threads_sleep_unless_the_user_says_otherwise(own, monkeypatch):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv(own, "7")
    main(["--version"])
    assert os.environ.get("OMP_WAIT_POLICY") == {None: "passive", "OMP_WAIT_POLICY": "7"}.get(own)
    os.environ.pop("OMP_WAIT_POLICY", None)
