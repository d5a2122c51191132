"""The study's list of scans left out: `OUT/study/left_out.tsv`."""

from pathlib import Path

from lesionwise.cohort.left_out import LeftOutList

WORK = "study"
"""Kind of work under which receipts, claims and reasons are kept."""


def left_out_list(out: Path) -> LeftOutList:
    """The list of one output folder."""
    return LeftOutList(Path(out), WORK, Path(out) / "study" / "left_out.tsv")
