"""What finished work was made from and what it made: a note per unit that lets a later run skip it.

Files are told by a stamp (size and times, as Git does); where the stamp differs, by the hash of their content.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesionwise.io.files import write_text

STATE = ".lesionwise"
"""Folder of OUT for what only this package reads: receipts, claims, reasons."""

Stamp = tuple[str, int, int, int]
"""Path, size in bytes, modification and change time in ns."""


@dataclass(frozen=True)
class Noted:
    """A file as it was: its stamp and the SHA-256 of its content."""

    stamp: Stamp
    sha256: str

    @classmethod
    def of(cls, path: Path, known: "Noted | None" = None) -> "Noted":
        """The file as it is now; its content is read only if its stamp is not the known one. Raises OSError."""
        stamp = stamp_of(path)
        if known is not None and known.stamp == stamp:
            return known
        with open(path, "rb") as stream:
            return cls(stamp, hashlib.file_digest(stream, "sha256").hexdigest())


@dataclass(frozen=True)
class Receipt:
    """Key of the finished unit, its inputs and outputs as they were, and what is worth telling about it.

    `outputs` go by their path below OUT. `note` is the sentence about what was found, `facts` plain values.
    """

    key: str
    inputs: Mapping[str, Noted]
    outputs: Mapping[str, Noted]
    note: str = ""
    facts: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, path: Path) -> "Receipt | None":
        """The receipt; None if there is none that can be read."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                str(content["Key"]),
                {what: _noted(entry) for what, entry in content["Inputs"].items()},
                {what: _noted(entry) for what, entry in content["Outputs"].items()},
                str(content.get("Note", "")),
                dict(content.get("Facts", {})),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, path: Path) -> None:
        """Writes it whole; the last thing a unit does."""
        content = {
            "Key": self.key,
            "Note": self.note,
            "Facts": dict(self.facts or {}),
            "Inputs": {what: _entry(noted) for what, noted in self.inputs.items()},
            "Outputs": {what: _entry(noted) for what, noted in self.outputs.items()},
        }
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def damaged(self, out: Path) -> list[Path]:
        """Outputs that are gone, or are not what was written."""
        found = []
        for name, noted in self.outputs.items():
            path = out / name
            try:
                if Noted.of(path, noted).sha256 != noted.sha256:
                    found.append(path)
            except OSError:
                found.append(path)
        return found


def note_outputs(out: Path, paths: Iterable[Path]) -> dict[str, Noted]:
    """The files as they are now, by their path below `out`."""
    return {path.relative_to(out).as_posix(): Noted.of(path) for path in sorted(set(paths))}


def stamp_of(path: Path) -> Stamp:
    """Stamp of a file; size -1 for one that is not there."""
    whole = Path(path).resolve()
    try:
        facts = whole.stat()
        return (str(whole), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    except OSError:
        return (str(whole), -1, 0, 0)


def input_stamps(inputs: Mapping[str, Path]) -> dict[str, Stamp]:
    """Stamp of every input."""
    return {what: stamp_of(path) for what, path in inputs.items()}


def note_inputs(inputs: Mapping[str, Path], known: Receipt | None) -> dict[str, Noted]:
    """Every input as it is; of a file whose stamp is unchanged the noted hash. Raises OSError."""
    before: Mapping[str, Noted] = {} if known is None else known.inputs
    return {what: Noted.of(path, before.get(what)) for what, path in inputs.items()}


def remove_leftovers(folder: Path, *prefixes: str) -> None:
    """Removes temporary files that a killed process left in a folder, of files whose name begins with a prefix.

    Only for whoever holds the claim on what these files belong to.
    """
    for name in _hidden(folder):  # some of these folders hold a file per scan: their names are looked at, no more
        _, mark, rest = name.partition(".tmp.")
        if mark and rest.startswith(prefixes):
            (folder / name).unlink(missing_ok=True)


def _hidden(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.startswith(".")]
    except FileNotFoundError:
        return []


def _noted(entry: Mapping[str, Any]) -> Noted:
    stamp = (str(entry["Path"]), int(entry["Size"]), int(entry["Modified"]), int(entry["Changed"]))
    return Noted(stamp, str(entry["Sha256"]))


def _entry(noted: Noted) -> dict[str, Any]:
    path, size, modified, changed = noted.stamp
    return {"Path": path, "Size": size, "Modified": modified, "Changed": changed, "Sha256": noted.sha256}
