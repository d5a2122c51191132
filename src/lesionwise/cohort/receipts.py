"""What finished work was made from and what it made: a note per unit that lets a later run skip it.

Files are told by a stamp (size and times, as Git does); where the stamp differs, by the hash of their content.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesionwise.io.files import write_text
from lesionwise.io.noted import Noted, Stamp, damaged_files, stamp_of

STATE = ".lesionwise"
"""Folder of OUT for what only this package reads: receipts, claims, reasons."""


@dataclass(frozen=True)
class Receipt:
    """Key of the finished unit, its inputs and outputs as they were, and what is worth telling about it.

    `outputs` go by their path below OUT. `note` is the sentence about what was found, `facts` plain values,
    `seconds` what the whole unit took.
    """

    key: str
    inputs: Mapping[str, Noted]
    outputs: Mapping[str, Noted]
    note: str = ""
    facts: Mapping[str, Any] | None = None
    seconds: float = 0.0

    @classmethod
    def read(cls, path: Path) -> "Receipt | None":
        """The receipt; None if there is none that can be read."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                str(content["Key"]),
                {what: Noted.from_dict(entry) for what, entry in content["Inputs"].items()},
                {what: Noted.from_dict(entry) for what, entry in content["Outputs"].items()},
                str(content.get("Note", "")),
                dict(content.get("Facts", {})),
                float(content.get("seconds", 0.0)),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def write(self, path: Path) -> None:
        """Writes it whole; the last thing a unit does."""
        content = {
            "Key": self.key,
            "Note": self.note,
            "Facts": dict(self.facts or {}),
            "seconds": round(self.seconds, 3),
            "Inputs": {what: noted.as_dict() for what, noted in self.inputs.items()},
            "Outputs": {what: noted.as_dict() for what, noted in self.outputs.items()},
        }
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def damaged(self, out: Path) -> list[Path]:
        """Outputs that are gone, or are not what was written."""
        return damaged_files(out, self.outputs)


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
