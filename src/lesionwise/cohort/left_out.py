"""Scans that could not be used, each with the reason: a list in OUT per kind of work."""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lesionwise.cohort.unit import state_folder
from lesionwise.io.bids import LeftOut
from lesionwise.io.derivative import write_json
from lesionwise.io.files import write_text

COLUMNS = {
    "scan": {"Description": "Stem of the scan's file names"},
    "found": {
        "Description": "When it turned out that the scan cannot be used",
        "Levels": {
            "data set": "an image is missing",
            "run": "an image is damaged, or computing failed",
            "result": "it was finished, but its files in OUT are damaged: run the participant level again",
        },
    },
    "reason": {"Description": "Why it was left out"},
}

Row = tuple[str, str, str]


@dataclass(frozen=True)
class LeftOutList:
    """The list of one kind of work on OUT, at `path` (`.tsv`, described in the `.json` beside it)."""

    out: Path
    work: str
    path: Path

    def write(self, missing: Sequence[LeftOut], *, subjects: Collection[str] | None = None) -> list[Row]:
        """Brings the list up to date and returns its rows; it is written even if it is empty.

        `missing` are the scans that the data set lacks images of, among `subjects` (None: all); rows of other subjects
        stay.
        """
        rows = [(scan.name.stem, "data set", scan.reason) for scan in missing]
        if subjects is not None:
            rows += [row for row in self.read() if row[1] == "data set" and _subject(row[0]) not in subjects]
        return self.refresh(rows)

    def refresh(self, missing: Sequence[Row] | None = None, *, damaged: Mapping[str, str] | None = None) -> list[Row]:
        """Writes the list anew from `missing` (as it was, if None) and what units noted since; returns its rows.

        `damaged` are finished scans whose files turned out to be damaged, by stem with the reason.
        """
        if missing is None:
            missing = [row for row in self.read() if row[1] == "data set"]
        found = [(stem, "result", reason) for stem, reason in (damaged or {}).items()]
        rows = sorted({*missing, *found, *((stem, "run", reason) for stem, reason in self._failed())})
        write_rows(self.path, rows)
        return rows

    def read(self) -> list[Row]:
        """The list as it is; empty if there is none."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return []
        rows = list(csv.reader(io.StringIO(text.replace("\0", "")), delimiter="\t"))[1:]
        return [(row[0], row[1], row[2]) for row in rows if len(row) == len(COLUMNS)]

    def _failed(self) -> list[tuple[str, str]]:
        """Scans with the reason, as the units noted them."""
        reasons = []
        for path in sorted((state_folder(self.out, self.work) / "left_out").glob("[!.]*.json")):
            try:
                noted = json.loads(path.read_text(encoding="utf-8"))
                reasons.append((str(noted["Scan"]), str(noted["Reason"])))
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue  # taken away this moment by the run that finished the scan
        return reasons


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes a list and its description whole."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_text(path, stream.getvalue())
    write_json(path.with_suffix(".json"), COLUMNS)


def _subject(stem: str) -> str:
    return stem.split("_")[0].removeprefix("sub-")
