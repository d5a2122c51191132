"""Zip archives as PyTorch writes them, read with suspicion: what is looked at here is what PyTorch will read.

Two readers may disagree about an archive that holds two members of one name, or whose directory does not lie where it
says. Such archives are refused before anyone else opens them.
"""

import pickletools
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lesionwise.errors import ModelFileError

_END = struct.Struct("<4sHHHHLLH")
_END64 = struct.Struct("<4sQHHLLQQQQ")
_LOCATOR64 = struct.Struct("<4sLQL")
_FULL = 0xFFFFFFFF


@dataclass(frozen=True)
class Archive:
    """A zip archive that every reader reads alike; `names` are its members, in order."""

    path: Path
    names: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> "Archive | None":
        """The archive in a file, None if the file is none.

        Raises ModelFileError for one that is damaged, holds a name twice (upper and lower case are one name to
        PyTorch) or says something else about itself than is there.
        """
        if not (path.is_file() and zipfile.is_zipfile(path)):
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                names = tuple(archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ModelFileError(f"Expected a readable archive in {path}, found a damaged one.") from error
        twice = next((name for name, count in Counter(name.lower() for name in names).items() if count > 1), None)
        if twice is not None:
            raise ModelFileError(
                f"Expected every member of an archive once, found {twice} twice in {path}: which of the two counts "
                "depends on who reads it, so it is not read."
            )
        if not _directory_is_where_it_says(path):
            raise ModelFileError(
                f"Expected a plain archive in {path}, found one whose directory does not lie where its end says: it is "
                "not read."
            )
        return cls(path, names)

    def read(self, name: str) -> bytes:
        """A member's content. Raises ModelFileError if it is damaged."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise ModelFileError(f"Expected a readable {name} in {self.path}, found a damaged one.") from error

    def find(self, *endings: str) -> str | None:
        """The first member whose name ends so, None if there is none."""
        return next((name for name in self.names if name.endswith(endings)), None)

    @property
    def holds_script(self) -> bool:
        """True for an archive of `torch.jit.save`."""
        return self.find("constants.pkl") is not None and any("/code/" in name for name in self.names)

    @property
    def holds_program(self) -> bool:
        """True for an archive of `torch.export.save`."""
        return self.find("models/model.json", "serialized_exported_program.json") is not None

    @property
    def holds_tensors(self) -> bool:
        """True for an archive of `torch.save` that is neither of these."""
        return self.find("data.pkl") is not None and not self.holds_script and not self.holds_program


def pickled_names(content: bytes) -> Iterator[str]:
    """Dotted names of the classes and functions that a pickle asks for; the pickle is not run.

    A name put together while it would run comes out as "?". Raises ValueError for what is no pickle.
    """
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield "?"


def _directory_is_where_it_says(path: Path) -> bool:
    """True if the archive ends with its directory and the directory's record, with nothing between or after."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        end = size - _END.size
        stream.seek(end)
        signature, *_, length, start, comment = _END.unpack(stream.read(_END.size))
        if signature != b"PK\x05\x06" or comment:
            return False
        if _FULL not in (length, start) and start + length == end:
            return True
        if end < _LOCATOR64.size + _END64.size:
            return False
        stream.seek(end - _LOCATOR64.size)
        locator, _, at, _ = _LOCATOR64.unpack(stream.read(_LOCATOR64.size))
        if locator != b"PK\x06\x07" or at != end - _LOCATOR64.size - _END64.size:
            return False
        stream.seek(at)
        signature, *_, length64, start64 = _END64.unpack(stream.read(_END64.size))
        agree = length in (length64, _FULL) and start in (start64, _FULL)
        return bool(signature == b"PK\x06\x06" and agree and start64 + length64 == at)
