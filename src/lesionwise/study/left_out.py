"""Scans that could not be used, each with the reason: `OUT/study/left_out.tsv`."""

import csv
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from lesionwise.io.bids import LeftOut
from lesionwise.io.derivative import write_json
from lesionwise.io.files import write_text
from lesionwise.study.receipts import STATE

COLUMNS = {
    "scan": {"Description": "Stem of the scan's file names"},
    "found": {
        "Description": "When it turned out that the scan cannot be used",
        "Levels": {"data set": "an image is missing", "run": "an image is damaged, or computing failed"},
    },
    "reason": {"Description": "Why it was left out"},
}

Row = tuple[str, str, str]


def left_out_path(out: Path) -> Path:
    """The list's place."""
    return Path(out) / "study" / "left_out.tsv"


def write_left_out(out: Path, missing: Sequence[LeftOut], *, subjects: Collection[str] | None = None) -> list[Row]:
    """Brings the list up to date and returns its rows; it is written even if it is empty.

    `missing` are the scans that the data set lacks images of, among `subjects` (None: all); rows of other subjects stay.
    """
    rows = [(scan.name.stem, "data set", scan.reason) for scan in missing]
    if subjects is not None:
        rows += [row for row in read_left_out(out) if row[1] == "data set" and _subject(row[0]) not in subjects]
    return refresh_left_out(out, rows)


def refresh_left_out(out: Path, missing: Sequence[Row] | None = None) -> list[Row]:
    """Writes the list anew from `missing` (as it was, if None) and what units noted since; returns its rows."""
    if missing is None:
        missing = [row for row in read_left_out(out) if row[1] == "data set"]
    rows = sorted({*missing, *((stem, "run", reason) for stem, reason in _failed(out).items())})
    path = left_out_path(out)
    write_rows(path, rows)
    write_json(path.with_suffix(".json"), COLUMNS)
    return rows


def read_left_out(out: Path) -> list[Row]:
    """The list as it is; empty if there is none."""
    try:
        text = left_out_path(out).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = list(csv.reader(io.StringIO(text), delimiter="\t"))[1:]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == len(COLUMNS)]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes the list whole."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def _failed(out: Path) -> dict[str, str]:
    """Reason by scan, as the units noted them."""
    reasons = {}
    for path in sorted((Path(out) / STATE / "left_out").glob("*.json")):
        try:
            reasons[path.stem] = str(json.loads(path.read_text(encoding="utf-8"))["Reason"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # taken away this moment by the run that finished the scan
    return reasons


def _subject(stem: str) -> str:
    return stem.split("_")[0].removeprefix("sub-")
