"""Opening an image by what its file holds, not by what it is called; and why there is nothing to open.

Every way in which a file can fail to be an image becomes one sentence, here and nowhere else.
"""

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError as NibabelError
from nibabel.imageglobals import logger as nibabel_log
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from lesionwise.errors import ImageFileError

GZIP = b"\x1f\x8b"
GZIP_MOST = 1032
"""No stream of zlib's holds more than this many bytes per byte."""

_MAGIC = ((344, b"n+1", nib.Nifti1Image), (4, b"n+2", nib.Nifti2Image))
"""Where a NIfTI image in one file says that it is one. Those in two files are found by name, by nibabel."""

_POINTERS = (b"/annex/objects/", b"version https://git-lfs")
_DAMAGE = (
    NibabelError,
    HeaderDataError,
    HeaderTypeError,
    ImageDataError,
    WrapStructError,
    EOFError,
    OSError,
    zlib.error,
    struct.error,
    ValueError,  # also what numpy and Unicode raise
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What nibabel raises on files that are not what they should be."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A nibabel image whose voxels can be read inside the block: NIfTI by its content, other formats by their name.

    Raises ImageFileError, in one sentence, if there is no such file, its content lies elsewhere (git-annex, git-lfs, a
    dangling link), it may not be read, is no image, ends too early, or speaks of more voxels than memory can hold.
    """
    check_present(path)
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
            start = stream.read(348)
            stream.seek(0)
            kind = next((kind for place, magic, kind in _MAGIC if start[place:].startswith(magic)), None)
            with _silence():
                image = nib.load(path) if kind is None else _from_stream(kind, stream)
            _check_size(image, path, packed=packed, plain=kind is not None)
            yield image
    except ImageFileError:
        raise
    except PermissionError as error:
        raise ImageFileError(f"Expected to read the image {path}, but it may not be read.") from error
    except MemoryError as error:
        raise ImageFileError(f"Expected an image that fits into memory, but {path} does not.") from error
    except _DAMAGE as error:
        raise ImageFileError(
            f"Expected a readable NIfTI image, but {path} is damaged or not one ({_why(error)})."
        ) from error


def check_present(path: Path) -> None:
    """Raises ImageFileError unless `path` is a file that holds its own content."""
    if path.is_symlink() and not path.exists():
        target = os.readlink(path)
        if "annex/objects" in target.replace("\\", "/"):
            raise ImageFileError(
                f"Expected the image {path}, but its content is not here: get it with 'datalad get {path.name}' or "
                f"'git annex get {path.name}'."
            )
        raise ImageFileError(f"Expected the image {path}, but it is a link to {target}, which is not there.")
    if path.is_dir():
        raise ImageFileError(f"Expected a NIfTI image, found the folder {path}.")
    if not path.is_file():
        raise ImageFileError(f"Expected a NIfTI image, but there is no file {path}.")
    if path.stat().st_size < 4096 and os.access(path, os.R_OK):
        start = path.read_bytes()[:64]
        if start.startswith(_POINTERS):
            tool = "git lfs pull" if start.startswith(b"version") else f"git annex get {path.name}"
            raise ImageFileError(
                f"Expected the image {path}, but its content is not here, only a pointer: get it with '{tool}'."
            )
        if not start:
            raise ImageFileError(f"Expected a NIfTI image, but {path} is empty.")


@contextmanager
def _silence() -> Iterator[None]:
    """What nibabel mends in a header it also logs, in words that are not for people."""
    before, nibabel_log.disabled = nibabel_log.disabled, True
    try:
        yield
    finally:
        nibabel_log.disabled = before


def _from_stream(kind: Any, stream: Any) -> Any:
    holder = nib.FileHolder(fileobj=stream)
    return kind.from_file_map({"header": holder, "image": holder}, mmap=False)


def _check_size(image: Any, path: Path, *, packed: bool, plain: bool) -> None:
    """Raises ImageFileError if the header speaks of more than the file, or this machine's memory, can hold."""
    shape = tuple(int(n) for n in image.shape)
    voxels = int(np.prod([max(n, 0) for n in shape], dtype=object)) if shape else 0
    needed = voxels * max(int(image.get_data_dtype().itemsize), 1)
    there = path.stat().st_size * (GZIP_MOST if packed else 1)
    grid = " x ".join(map(str, shape))
    if plain and needed > there:
        raise ImageFileError(
            f"Expected a readable NIfTI image, but {path} is damaged: its header speaks of {grid} voxels, {needed} bytes, "
            f"and the file holds {'at most ' if packed else ''}{there}."
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 40
    if max(needed, 4 * voxels) > memory:
        raise ImageFileError(
            f"Expected an image that fits into memory, but the header of {path} speaks of {grid} voxels, "
            f"{max(needed, 4 * voxels) / 1e9:.0f} GB."
        )


def _why(error: Exception) -> str:
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return "its compressed data are damaged or end too early"
    if isinstance(error, NibabelError):
        return "it is of no format that is known"
    if isinstance(error, HeaderDataError | HeaderTypeError | WrapStructError | LookupError):
        return "its header makes no sense"
    return "its header or its data make no sense"
