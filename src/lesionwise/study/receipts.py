"""What a finished scan was made from: a note per scan that lets a later run skip it without opening an image."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lesionwise.io.derivative import ScanFiles, write_json

STATE = ".lesionwise"
"""Folder of OUT for what only this package reads: receipts, claims, reasons."""

Stamp = tuple[str, int, int, int]
"""Path, size in bytes, modification and change time in ns."""


@dataclass(frozen=True)
class Receipt:
    """Inputs of a finished scan with their hashes, the key of the unit, and the names of its files.

    `note` is the sentence about what was found, `triage` the fingerprint of the triage model that judged it, if any.
    """

    key: str
    stamps: Mapping[str, Stamp]
    hashes: Mapping[str, str]
    outputs: tuple[str, ...]
    lesions: int
    note: str = ""
    triage: str = ""

    @classmethod
    def read(cls, files: ScanFiles) -> "Receipt | None":
        """The scan's receipt; None if there is none that can be read."""
        try:
            content = json.loads(receipt_path(files).read_text(encoding="utf-8"))
            inputs = content["Inputs"]
            return cls(
                content["Key"],
                {what: (e["Path"], e["Size"], e["Modified"], e["Changed"]) for what, e in inputs.items()},
                {what: entry["Sha256"] for what, entry in inputs.items()},
                tuple(content["Outputs"]),
                int(content["Lesions"]),
                content.get("Note", ""),
                content.get("Triage", ""),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, files: ScanFiles) -> None:
        """Writes it whole; the last thing a unit does."""
        entries = {
            what: {"Path": path, "Size": size, "Modified": modified, "Changed": changed, "Sha256": self.hashes[what]}
            for what, (path, size, modified, changed) in self.stamps.items()
        }
        content = {
            "Key": self.key,
            "Lesions": self.lesions,
            "Note": self.note,
            "Inputs": entries,
            "Outputs": list(self.outputs),
            **({"Triage": self.triage} if self.triage else {}),
        }
        write_json(receipt_path(files), content)

    def outputs_exist(self, files: ScanFiles) -> bool:
        """True if every file of the scan is still there (files are written whole, so that a name suffices)."""
        try:
            there = set(os.listdir(files.folder))
        except OSError:
            return False
        part = files.out / "lesions.parquet" / f"{files.name.stem}.parquet"
        return there.issuperset(self.outputs) and part.is_file()


def receipt_path(files: ScanFiles) -> Path:
    """Where a scan's receipt lies."""
    return files.out / STATE / "receipts" / f"{files.name.stem}.json"


def claim_path(files: ScanFiles) -> Path:
    """Where a scan's claim lies while somebody works on it."""
    return files.out / STATE / "claims" / f"{files.name.stem}.json"


def reason_path(files: ScanFiles) -> Path:
    """Where it is noted why a scan could not be explained."""
    return files.out / STATE / "left_out" / f"{files.name.stem}.json"


def remove_leftovers(files: ScanFiles) -> None:
    """Removes temporary files of this scan that a killed process left behind; only for whoever holds its claim."""
    stem = files.name.stem
    places = {
        files.folder: "_",
        files.out / "lesions.parquet": ".",
        receipt_path(files).parent: ".",
        reason_path(files).parent: ".",
    }
    for folder, after in places.items():
        for name in _hidden(folder):  # some of these folders hold a file per scan: their names are looked at, no more
            _, mark, rest = name.partition(".tmp.")
            if mark and rest.startswith(f"{stem}{after}") and not of_longer_name(rest, stem):
                (folder / name).unlink(missing_ok=True)


def _hidden(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.startswith(".")]
    except FileNotFoundError:
        return []


def of_longer_name(name: str, stem: str) -> bool:
    """True for `sub-1_acq-a_lesions.tsv` and the stem `sub-1`: a file of another scan of the same session."""
    return name[len(stem) + 1 :].startswith(("acq-", "run-", "ses-"))


def input_stamps(inputs: Mapping[str, Path]) -> dict[str, Stamp]:
    """Stamp of every input; size -1 for a file that is not there."""
    stamps = {}
    for what, path in inputs.items():
        whole = Path(path).resolve()
        try:
            facts = whole.stat()
            stamps[what] = (str(whole), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        except OSError:
            stamps[what] = (str(whole), -1, 0, 0)
    return stamps


def hash_inputs(inputs: Mapping[str, Path], known: Receipt | None) -> dict[str, str]:
    """SHA-256 of every input's bytes; of a file whose stamp is unchanged the noted one. Raises OSError."""
    stamps = input_stamps(inputs)
    hashes = {}
    for what, path in inputs.items():
        if known is not None and known.stamps.get(what) == stamps[what]:
            hashes[what] = known.hashes[what]
            continue
        with open(path, "rb") as stream:
            hashes[what] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes
