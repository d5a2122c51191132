"""Networks without their source: TorchScript, and programs of torch.export (.pt2).

The spec comes from a TOML beside the file (same name), or from `spec.toml` stored inside it as an extra file.
TorchScript runs in PyTorch's own interpreter; a file that holds code to run on loading, or operators that touch
files, needs `trust`.
"""

import tomllib
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.errors import ModelFileError
from lesionwise.models.architecture import FullResolution, full_resolution
from lesionwise.models.statedict import read_toml, spec_of
from lesionwise.segmenter import AbstractSegmenter, Segmenter, Spec

OPTIONS: tuple[str, ...] = ()
EXTRA = "spec.toml"
"""Name of the extra file inside an archive that may hold the spec."""

_SUSPICIOUS = (b"__setstate__", b"from_file", b"torch.save", b"torch.load", b"ops.prim.PythonOp", b"torch.classes.")


def claims(path: Path) -> bool:
    """True for a TorchScript or torch.export archive."""
    return is_torchscript(path) or is_program(path)


def is_torchscript(path: Path) -> bool:
    """True for an archive of `torch.jit.save`."""
    names = _members(path)
    return any(name.endswith("constants.pkl") for name in names) and any("/code/" in name for name in names)


def is_program(path: Path) -> bool:
    """True for an archive of `torch.export.save`."""
    names = _members(path)
    return any(
        name.endswith("models/model.json") or name.endswith("serialized_exported_program.json") for name in names
    )


def load(path: Path, *, trust: bool = False, options: Mapping[str, str] | None = None) -> AbstractSegmenter:
    """Reads the network and its spec.

    Raises ModelFileError if there is no spec, the file is damaged, the network does not take the spec's window, or the
    file would run code on loading and `trust` was not given.
    """
    spec = spec_of(_table(path), where=path)
    if is_torchscript(path):
        if not trust:
            refuse_code(path)
        return Segmenter(script(path), spec)
    return Segmenter(program(path, spec), spec)


def script(path: Path) -> nn.Module:
    """A TorchScript network in evaluation mode, reduced to its full-resolution output."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelFileError(f"Expected a readable TorchScript network in {path}, but: {_first_line(error)}") from error
    return FullResolution(module.eval())


def program(path: Path, spec: Spec) -> nn.Module:
    """A torch.export program that takes any batch, with its modules (and so hooks) back.

    Raises ModelFileError if the program was exported for another shape than the spec's channels and window.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.load(path)
            shape = _input_shape(exported)
            module = torch.export.unflatten(exported)
    except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"Expected a readable torch.export program in {path}, but: {_first_line(error)}"
        ) from error
    wanted = (len(spec.channels), *spec.window)
    fixed = [n for n in shape[1:] if isinstance(n, int)]
    if len(shape) != 5 or any(isinstance(n, int) and n != w for n, w in zip(shape[1:], wanted, strict=True)):
        raise ModelFileError(
            f"Expected a program for an input of {wanted}, found one exported for {tuple(fixed)} in {path}."
        )
    return Program(module, shape[0] if isinstance(shape[0], int) else None)


class Program(nn.Module):
    """An exported program. `batch` is the batch size it was exported for, None if it takes any.

    Exported programs are in evaluation mode for good: switching the mode does nothing instead of failing.
    """

    def __init__(self, network: nn.Module, batch: int | None) -> None:
        super().__init__()
        self.network = network
        self.batch = batch
        self.training = False

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Float[Tensor, "batch classes i j k"]:
        """Logits at full resolution, the batch cut or filled up to the size that was exported."""
        size = tuple(x.shape[2:])
        if self.batch is None or x.shape[0] == self.batch:
            return full_resolution(self.network(x), size=size)
        parts = []
        for start in range(0, x.shape[0], self.batch):
            part = x[start : start + self.batch]
            missing = self.batch - part.shape[0]
            filled = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
            parts.append(full_resolution(self.network(filled), size=size)[: part.shape[0]])
        return torch.cat(parts)

    def train(self, mode: bool = True) -> "Program":
        """Leaves the mode as it was exported."""
        return self


def refuse_code(path: Path) -> None:
    """Raises ModelFileError if a TorchScript file holds code that could run on loading or touch files."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "/code/" not in name or not name.endswith(".py"):
                continue
            text = archive.read(name)
            hit = next((word for word in _SUSPICIOUS if word in text), None)
            if hit is not None:
                raise ModelFileError(
                    f"{path} holds code that could run on loading ({hit.decode()}): pass --trust if you trust its source."
                )


def _table(path: Path) -> dict[str, Any]:
    """The TOML beside the file, else the one inside it."""
    beside = path.with_suffix(".toml")
    if beside.is_file():
        return read_toml(beside)
    with zipfile.ZipFile(path) as archive:
        inside = next((name for name in archive.namelist() if name.endswith(f"extra/{EXTRA}")), None)
        text = archive.read(inside) if inside is not None else None
    if text is None:
        raise ModelFileError(
            f"{path} says nothing about channels and window: expected {beside.name} beside it with "
            "[spec] name, channels, window, found none."
        )
    try:
        return tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelFileError(f"Expected TOML in {EXTRA} inside {path}, but it cannot be parsed: {error}.") from error


def _input_shape(exported: "torch.export.ExportedProgram") -> tuple[Any, ...]:
    """Shape of the last placeholder: integers where it is fixed."""
    inputs = [node for node in exported.graph.nodes if node.op == "placeholder"]
    return tuple(int(n) if isinstance(n, int) else None for n in inputs[-1].meta["val"].shape)


def _members(path: Path) -> list[str]:
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
