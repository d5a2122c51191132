"""Files of `torch.save` read without running anything in them: tensors, plain values, and what a format names besides."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from lesionwise.errors import ModelFileError
from lesionwise.models.archive import Archive, pickled_names


def read_saved(path: Path, *, what: str, allowed: Sequence[Any] = ()) -> Any:
    """The content of a checkpoint. `what` it is called in messages; `allowed` are further harmless classes, as
    `torch.serialization.safe_globals` takes them.

    Raises ModelFileError if the file is missing, damaged, or holds other objects.
    """
    if not path.is_file():
        raise ModelFileError(f"Expected {what} in {path}, but there is no such file.")
    if path.stat().st_size == 0:
        raise ModelFileError(f"Expected {what} in {path}, found an empty file.")
    archive = Archive.of(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        strange = _stranger(path, archive, allowed)
        found = f"objects of {strange}" if strange else "something else"
        raise ModelFileError(
            f"Expected {what} in {path}, tensors and plain values alone, found {found}: loading those could run code, so "
            "the file is not read. Save a state_dict, or better safetensors, in its place."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelFileError(f"Expected {what} in {path}, found a damaged or truncated file.") from error


def _stranger(path: Path, archive: Archive | None, allowed: Sequence[Any]) -> str | None:
    """The first class that a checkpoint asks for and PyTorch does not know as harmless; the file is only looked at."""
    if archive is not None:
        try:
            with torch.serialization.safe_globals(list(allowed)):
                strange = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            return str(strange[0]) if strange else None
        except (RuntimeError, ValueError, UnpicklingError, OSError):
            member = archive.find("data.pkl")
            content = archive.read(member) if member is not None else b""
    else:
        content = path.read_bytes()
    try:
        return next((name for name in pickled_names(content) if not name.startswith(("torch.", "collections."))), None)
    except ValueError:
        return None
