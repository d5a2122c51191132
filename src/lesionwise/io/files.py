"""Files are written whole or not at all: a temporary name in the same folder, then a rename."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from lesionwise.errors import InputError


def check_output(folder: Path) -> None:
    """Raises InputError unless `folder` can be made and written to; nothing is made. To be asked before long work."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    if not there.is_dir():
        raise InputError(f"Expected a folder for the results, found the file {there}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"Expected to write to the output folder {folder}, but {there} may not be written to.")


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path with the same suffixes; on success it is flushed to disk and renamed to `path`.

    On any error, an interrupt included, the temporary file is removed and `path` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex[:12]}.tmp.{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text whole."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
