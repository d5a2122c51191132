"""One door to every kind of model: a shipped name, a package's name, or a file or folder recognised by its content."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from lesionwise.errors import InputError, ModelFileError
from lesionwise.models import builtin, bundle, exported, folds, lstai, mindglide, nnunet, statedict
from lesionwise.segmenter import AbstractSegmenter


class Loader(Protocol):
    """A module that reads one kind of model. `claims` looks at names and content, and never runs anything."""

    @property
    def OPTIONS(self) -> Mapping[str, str]:
        """Options that may follow a path, each with what it takes."""
        ...

    def claims(self, path: Path) -> bool:
        """True if this loader can read the file or folder."""
        ...

    def load(self, path: Path, *, trust: bool = False, options: Mapping[str, str] | None = None) -> AbstractSegmenter:
        """Reads it; with `trust` the files may run code of their own. `options` are those named in OPTIONS."""
        ...


class NamedLoader(Protocol):
    """A module that reads the one model of another package, whose weights are the user's."""

    @property
    def OPTIONS(self) -> Mapping[str, str]:
        """Options that may follow the name, each with what it takes."""
        ...

    @property
    def SUMMARY(self) -> str:
        """One line about the model."""
        ...

    def load_named(self, options: Mapping[str, str]) -> AbstractSegmenter:
        """Finds the weights and reads them."""
        ...


LOADERS: Mapping[str, Loader] = {
    "an nnU-Net v2 results folder (plans.json, dataset.json, fold_*)": nnunet,
    "a MONAI bundle (configs/metadata.json, configs/inference.json, models/)": bundle,
    "a TorchScript or torch.export archive": exported,
    "a cross-validated run (folds.json, fold-0, fold-1, ...) or a file NAME.folds.npz": folds,
    "a folder or file with weights and a TOML that names the network": statedict,
}
"""Kinds of files and folders, in the order in which they are asked."""

PACKAGES: Mapping[str, NamedLoader] = {"lst-ai": lstai, "mindglide": mindglide}
"""Models of other packages, by name."""
_LOOKED_AT = 200


def load_model(ref: str | Path, *, trust: bool = False, device: str | torch.device = "cpu") -> AbstractSegmenter:
    """The model that `ref` names, in evaluation mode, on `device` ("auto": a GPU if there is one).

    `ref` is "builtin" or another shipped name, "lst-ai", "mindglide", or a path; options of the format may follow, as
    in "RESULTS?folds=0,1&mirroring=off". Nothing in a file runs unless `trust`
    is given. Raises ModelFileError with one sentence that says what was found and what is missing.
    """
    model = _load(ref, trust=trust)
    model.network.to(_device(device)).eval()
    return model


def load_models(
    refs: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    trust: bool = False,
    device: str | torch.device = "cpu",
) -> dict[str, AbstractSegmenter]:
    """Several models by name: the given names, else the last part of each reference, made unique.

    Raises InputError if there are not as many names as models.
    """
    unique = names_for(refs, names)
    return {name: load_model(ref, trust=trust, device=device) for ref, name in zip(refs, unique, strict=True)}


def names_for(refs: Sequence[str], names: Sequence[str] | None = None) -> list[str]:
    """A name per model: the given ones, else the last part of each reference; made unique.

    Raises InputError if there are not as many names as models.
    """
    if names is not None and len(names) != len(refs):
        raise InputError(f"Expected one name per model, found {len(names)} names for {len(refs)} models.")
    unique: list[str] = []
    for name in names if names is not None else [Path(ref.partition("?")[0]).stem for ref in refs]:
        unique.append(name if name not in unique else f"{name}-{len(unique) + 1}")
    return unique


def known() -> list[tuple[str, str]]:
    """Name and one line of every model that can be asked for by name."""
    shipped = [(name, builtin.summary(name)) for name in builtin.names()]
    return [*shipped, *((name, loader.SUMMARY) for name, loader in PACKAGES.items())]


def options_of(ref: str | Path) -> Mapping[str, str]:
    """Options that may follow this model, each with what it takes."""
    name = str(ref) if Path(ref).exists() else str(ref).partition("?")[0]
    path = Path(name)
    if path.exists():
        return next((loader.OPTIONS for loader in LOADERS.values() if loader.claims(path)), {})
    return PACKAGES[name].OPTIONS if name in PACKAGES else builtin.options(name)


def formats() -> list[tuple[str, Mapping[str, str]]]:
    """Every kind of model with the options that may follow it."""
    of_packages = [(name, loader.OPTIONS) for name, loader in PACKAGES.items()]
    return [*((kind, loader.OPTIONS) for kind, loader in LOADERS.items()), *of_packages]


def _load(ref: str | Path, *, trust: bool) -> AbstractSegmenter:
    name, _, query = (str(ref), "", "") if Path(ref).exists() else str(ref).partition("?")
    path = Path(name)
    if name in PACKAGES and not path.exists():
        return PACKAGES[name].load_named(_options(query, PACKAGES[name].OPTIONS, name))
    if name == "builtin" or (name in builtin.names() and not path.exists()):
        return builtin.load(name, _options(query, builtin.options(name), name))
    if not path.exists():
        choices = ", ".join(["builtin", *(n for n in builtin.names() if n != "builtin"), *PACKAGES])
        raise ModelFileError(f"Expected a model's name ({choices}) or a path, but there is no file or folder {name}.")
    for kind, loader in LOADERS.items():
        if loader.claims(path):
            return loader.load(path, trust=trust, options=_options(query, loader.OPTIONS, kind))
    raise ModelFileError(f"Expected {'; or '.join(LOADERS)}; found {_content(path)}.")


def _options(query: str, known: Mapping[str, str], kind: str) -> dict[str, str]:
    """What follows the `?`. Raises InputError for an option that is not known, has no value, or comes twice."""
    found: dict[str, str] = {}
    for pair in query.split("&") if query else []:
        name, _, value = pair.partition("=")
        if name not in known:
            offered = f"options among {', '.join(known)}" if known else "no options"
            raise InputError(f"Expected {offered} for {kind}, found {name or pair!r}.")
        if not value:
            raise InputError(f"Expected a value for the option {name} of {kind} ({known[name]}), found none.")
        if name in found:
            raise InputError(f"Expected the option {name} of {kind} once, found it twice.")
        found[name] = value
    return found


def _content(path: Path) -> str:
    near = _near(path)
    hint = "" if not near else f": did you mean {' or '.join(str(p) for p in near)}?"
    if path.is_file():
        return f"a file {path} that is none of these{hint}"
    inside = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    shown = ", ".join(inside[:6]) + (", ..." if len(inside) > 6 else "")
    return f"a folder {path} with {shown or 'nothing in it'}{hint}"


def _near(path: Path) -> list[Path]:
    """Up to three models close by: the folders that a file lies in, what lies in a folder or in its folders."""
    if path.is_file():
        around = [path.absolute().parent, path.absolute().parent.parent]
        return [p for p in around if any(loader.claims(p) for loader in LOADERS.values())][:1]
    for pattern in ("*", "*/*"):
        folders = (p for p in itertools.islice(sorted(path.glob(pattern)), _LOOKED_AT) if p.is_dir())
        found = [p for p in folders if any(loader.claims(p) for loader in LOADERS.values())]
        if found:
            return found[:3]
    return []


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"Expected a device such as cpu, cuda or cuda:1, found {device}.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"The device {device} was asked for, but PyTorch finds no usable GPU here.")
    return chosen
