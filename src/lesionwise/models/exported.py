"""Networks without their source: TorchScript, and programs of torch.export (.pt2).

The spec comes from a TOML beside the file (same name), or from `spec.toml` stored inside it as an extra file.
TorchScript runs in PyTorch's own interpreter: without `trust` a file may hold no code for the moment of loading, and its
loaded graph no operator that is not on a list. Reading a .pt2 archive may unpickle objects and evaluate expressions, so
that it needs `trust` from the start.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.errors import ModelFileError
from lesionwise.models.architecture import FullResolution
from lesionwise.models.archive import Archive, pickled_names
from lesionwise.models.operators import refuse_operators
from lesionwise.models.statedict import parse_toml, read_toml, spec_of
from lesionwise.network import full_resolution
from lesionwise.segmenter import AbstractSegmenter, Segmenter, Spec

OPTIONS: Mapping[str, str] = {}
EXTRA = "spec.toml"
"""Name of the extra file inside an archive that may hold the spec."""

_RUN_ON_LOADING = (b"__setstate__", b"__getstate__", b"torch.classes.")
_HARMLESS_NAMES = (
    "__torch__.", "torch.jit._pickle.", "torch._utils._rebuild_", "collections.OrderedDict", "torch.device",
)  # fmt: skip


def claims(path: Path) -> bool:
    """True for a TorchScript or torch.export archive."""
    archive = Archive.of(path)
    return archive is not None and (archive.holds_script or archive.holds_program)


def load(path: Path, *, trust: bool = False, options: Mapping[str, str] | None = None) -> AbstractSegmenter:
    """Reads the network and its spec.

    Raises ModelFileError if there is no spec, the file is damaged, the network does not take the spec's window, or the
    file could run code and `trust` was not given.
    """
    archive = Archive.of(path)
    if archive is None:
        raise ModelFileError(f"Expected a TorchScript or torch.export archive in {path}, found none.")
    if archive.holds_script:
        spec = spec_of(_table(archive), where=path)
        return Segmenter(script(path, trust=trust), spec)
    if not trust:
        raise ModelFileError(
            f"{path} is a torch.export archive, and reading one can run code that it holds: pass --trust if you trust "
            "its source, or save the network as TorchScript or as weights with a TOML."
        )
    spec = spec_of(_table(archive), where=path)
    return Segmenter(program(path, spec), spec)


def script(path: Path, *, trust: bool = False) -> nn.Module:
    """A TorchScript network in evaluation mode, reduced to its full-resolution output.

    Raises ModelFileError if it is damaged, or could do more than arithmetic and `trust` was not given.
    """
    archive = Archive.of(path)
    if archive is None or not archive.holds_script:
        raise ModelFileError(f"Expected a TorchScript archive in {path}, found none.")
    if not trust:
        _refuse_code_on_loading(archive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelFileError(f"Expected a readable TorchScript network in {path}, found a damaged file.") from error
    if not trust:
        refuse_operators(module, path)
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
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ModelFileError(f"Expected a readable torch.export program in {path}, found a damaged file.") from error
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


def _refuse_code_on_loading(archive: Archive) -> None:
    """Raises ModelFileError if loading a TorchScript file would run something of it."""
    for name in archive.names:
        content = archive.read(name) if name.endswith((".py", ".pkl")) else b""
        if "/code/" in name and name.endswith(".py"):
            found = next((word.decode() for word in _RUN_ON_LOADING if word in content), None)
        elif name.endswith(".pkl"):
            try:
                strange = [each for each in pickled_names(content) if not _is_harmless(each)]
            except ValueError as error:
                raise ModelFileError(f"Expected a readable {name} in {archive.path}, found a damaged one.") from error
            found = strange[0] if strange else None
        else:
            continue
        if found is not None:
            raise ModelFileError(
                f"{archive.path} holds code that would run on loading ({found}): pass --trust if you trust its source."
            )


def _is_harmless(name: str) -> bool:
    storage = name.startswith("torch.") and name.endswith("Storage") and name.count(".") == 1
    return storage or (name.startswith(_HARMLESS_NAMES) and not name.startswith("__torch__.torch.classes"))


def _table(archive: Archive) -> dict[str, Any]:
    """The TOML beside the file, else the one inside it."""
    path = archive.path
    beside = path.with_suffix(".toml")
    if beside.is_file():
        return read_toml(beside)
    inside = archive.find(f"extra/{EXTRA}")
    text = archive.read(inside) if inside is not None else None
    if text is None:
        raise ModelFileError(
            f"{path} says nothing about channels and window: expected {beside.name} beside it with "
            "[spec] name, channels, window, found none."
        )
    return parse_toml(text, where=f"{EXTRA} inside {path}")


def _input_shape(exported: "torch.export.ExportedProgram") -> tuple[Any, ...]:
    """Shape of the last placeholder: integers where it is fixed."""
    inputs = [node for node in exported.graph.nodes if node.op == "placeholder"]
    return tuple(int(n) if isinstance(n, int) else None for n in inputs[-1].meta["val"].shape)
