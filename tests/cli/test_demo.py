"""The demo, shrunk: from nothing to a report."""

import pytest

from lesionwise.cli.main import main
from lesionwise.io.derivative import list_scans


@pytest.mark.slow
def test_demo_ends_in_a_report(tmp_path, capsys):
    assert main(["demo", str(tmp_path), "--size", "small", "--samples", "2", "--lesions", "largest:1"]) == 0
    captured = capsys.readouterr()
    assert "Plan: 2 lesions" in captured.err
    last = captured.out.strip().splitlines()[-1]
    assert last == f"Open the report: {tmp_path / 'derivatives' / 'report.html'}"
    page = (tmp_path / "derivatives" / "report.html").read_text(encoding="utf-8")
    assert "Research use only" in page
    assert len(list_scans(tmp_path / "derivatives")) == 1
