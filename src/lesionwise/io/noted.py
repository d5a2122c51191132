"""A file as it was when it was written or read: enough to tell later whether it is still the same."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Noted":
        """What `as_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        stamp = (str(entry["Path"]), int(entry["Size"]), int(entry["Modified"]), int(entry["Changed"]))
        return cls(stamp, str(entry["Sha256"]))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        path, size, modified, changed = self.stamp
        return {"Path": path, "Size": size, "Modified": modified, "Changed": changed, "Sha256": self.sha256}


def stamp_of(path: Path) -> Stamp:
    """Stamp of a file; size -1 for one that is not there."""
    whole = Path(path).resolve()
    try:
        facts = whole.stat()
        return (str(whole), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    except OSError:
        return (str(whole), -1, 0, 0)


def note_files(out: Path, paths: Iterable[Path]) -> dict[str, Noted]:
    """The files as they are now, by their path below `out`."""
    return {path.relative_to(out).as_posix(): Noted.of(path) for path in sorted(set(paths))}


def damaged_files(out: Path, noted: Mapping[str, Noted]) -> list[Path]:
    """Those of the files that are gone, or are not as they were noted."""
    found = []
    for name, before in noted.items():
        path = out / name
        try:
            if Noted.of(path, before).sha256 != before.sha256:
                found.append(path)
        except OSError:
            found.append(path)
    return found
