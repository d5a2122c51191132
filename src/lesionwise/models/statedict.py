"""Weights with the architecture named in a small TOML: the format that `lesionwise train` writes.

A folder holds `model.toml` and `model.safetensors`; a single weights file has its TOML beside it under the same name.

    [network]
    class = "monai.networks.nets.UNet"
    [network.arguments]
    spatial_dims = 3
    ...
    [spec]                 # fields of lesionwise.segmenter.Spec; "scan" leaves orientation or spacing as the scan's
    name = "my-unet"
    channels = ["FLAIR", "T1w"]
    window = [96, 96, 96]
    [card]                 # free text and figures about the model
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import tomli_w
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lesionwise.errors import InputError, ModelFileError
from lesionwise.io.files import write_text, write_whole
from lesionwise.models.architecture import build, checked, load_weights
from lesionwise.models.archive import Archive
from lesionwise.models.checkpoint import read_saved
from lesionwise.network import take_as_fitting, without_in_place
from lesionwise.segmenter import AbstractSegmenter, FixedNormalisation, Segmenter, Spec

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
"""Endings of files that may hold a state_dict."""

OPTIONS: Mapping[str, str] = {}
_LEFT_AS_SCAN = "scan"
_CONTAINERS = ("state_dict", "model_state_dict", "network_weights", "model", "net", "network")


def claims(path: Path) -> bool:
    """True for a folder with model.toml, a TOML that names a network, or a weights file with such a TOML beside it."""
    if path.is_dir():
        return (path / "model.toml").is_file()
    if path.suffix == ".toml":
        return path.is_file()
    return path.is_file() and (path.suffix == ".safetensors" or (path.suffix in WEIGHT_SUFFIXES and is_pickled(path)))


def load(path: Path, *, trust: bool = False, options: Mapping[str, str] | None = None) -> AbstractSegmenter:
    """Reads network, weights and spec. `trust` is not needed: nothing in this format can run. There are no options.

    Raises ModelFileError with one sentence if the TOML or the weights are missing or do not fit.
    """
    description_file, weights_file = _locate(path)
    return load_pair(description_file, weights_file)


def load_pair(description_file: Path, weights_file: Path, *, fits: bool = False) -> Segmenter:
    """The segmenter that a TOML describes, with the weights of a file; `fits` says that the two are known to belong together."""
    table = read_toml(description_file)
    network = table.get("network", {})
    if not isinstance(network, Mapping) or "class" not in network:
        raise ModelFileError(
            f"Expected [network] with class = 'monai.networks.nets...' in {description_file}, found none."
        )
    spec = spec_of(table, where=description_file)
    module = build(str(network["class"]), network.get("arguments", {}), where=str(description_file))
    load_weights(module, read_weights(weights_file), where=str(weights_file))
    if fits:
        take_as_fitting(without_in_place(module), channels=len(spec.channels), outputs=spec.outputs, window=spec.window)
    else:
        where = str(description_file)
        module = checked(module, channels=len(spec.channels), classes=spec.classes, window=spec.window, where=where)
    return Segmenter(module, spec)


def save_model(
    folder: Path, network: nn.Module, spec: Spec, *, class_name: str, arguments: Mapping[str, Any], name: str = "model"
) -> Path:
    """Writes `name`.toml and `name`.safetensors, each whole, so that `load` gives the same network back."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    with write_whole(folder / f"{name}.safetensors") as temporary:
        save_file(weights, temporary)
        temporary.chmod(0o644)  # safetensors leaves it to the owner alone
    table = {
        "network": {"class": class_name, "arguments": _without_none(dict(arguments))},
        "spec": spec_table(spec),
        "card": _without_none(spec.card),
    }
    write_text(folder / f"{name}.toml", tomli_w.dumps(table))
    return folder


def spec_table(spec: Spec) -> dict[str, Any]:
    """A spec as plain values for TOML."""
    table: dict[str, Any] = {}
    for field in fields(Spec):
        value = getattr(spec, field.name)
        if field.name == "card":
            continue
        if isinstance(value, FixedNormalisation):
            value = {"mean": list(value.mean), "sd": list(value.sd)}
        elif callable(value):
            raise InputError(f"Expected a model that a file can describe, found that its {field.name} is a function.")
        if value is None and field.name in ("orientation", "spacing_mm"):
            value = _LEFT_AS_SCAN
        if value is not None:
            table[field.name] = list(value) if isinstance(value, tuple) else value
    return table


def spec_of(table: Mapping[str, Any], *, where: Path) -> Spec:
    """The spec in a TOML's [spec] and [card] tables. Raises ModelFileError that names a wrong or missing field."""
    given = dict(table.get("spec", {}))
    known = {field.name: field for field in fields(Spec)}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ModelFileError(f"Expected fields of [spec] among {', '.join(known)}, found {unknown[0]} in {where}.")
    required = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in given]
    if missing:
        raise ModelFileError(f"Expected [spec] with {', '.join(required)} in {where}, {missing[0]} is missing.")
    for name in ("orientation", "spacing_mm"):
        if given.get(name) == _LEFT_AS_SCAN:
            given[name] = None
    try:
        return Spec(**given, card=dict(table.get("card", {})))
    except InputError as error:
        raise ModelFileError(f"The [spec] in {where} does not describe a model: {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(
            f"The [spec] in {where} does not describe a model: a value is of another kind than its field."
        ) from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises ModelFileError if it is missing or malformed."""
    try:
        return parse_toml(path.read_bytes(), where=str(path))
    except FileNotFoundError as error:
        raise ModelFileError(f"Expected a description of the model in {path}, but there is no such file.") from error


def parse_toml(content: bytes, *, where: str) -> dict[str, Any]:
    """A model's description as a dict. Raises ModelFileError if it is malformed, or network, spec or card is no table."""
    try:
        found = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        line = re.search(r"line \d+", str(error))
        at = f" at {line[0]}" if line else ""
        raise ModelFileError(f"Expected TOML in {where}, but it cannot be parsed{at}.") from error
    for name in ("network", "spec", "card"):
        if not isinstance(found.get(name, {}), dict):
            raise ModelFileError(f"Expected a table [{name}] in {where}, found a single value.")
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file or of a pickled state_dict; no code in the file can run.

    Raises ModelFileError if the file is missing, damaged, holds other objects than tensors, or no tensors.
    """
    if not path.is_file():
        raise ModelFileError(f"Expected the model's weights in {path}, but there is no such file.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, RuntimeError, OSError, ValueError) as error:
            raise ModelFileError(f"Expected readable weights in {path}, found a damaged or truncated file.") from error
    content = read_saved(path, what="the model's weights")
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise ModelFileError(f"Expected a state_dict in {path}, found {type(content).__name__} without tensors.")
    return state


def is_pickled(path: Path) -> bool:
    """True for a file of `torch.save` that is neither TorchScript nor torch.export."""
    archive = Archive.of(path)
    return path.suffix in (".pt", ".pth", ".ckpt") if archive is None else archive.holds_tensors


def _locate(path: Path) -> tuple[Path, Path]:
    """The TOML and the weights that belong together."""
    if path.is_dir():
        path = path / "model.toml"
    if path.suffix == ".toml":
        named = read_toml(path).get("network", {}).get("weights")
        if named is not None and not isinstance(named, str):
            raise ModelFileError(
                f"Expected the name of a file as weights of [network] in {path}, found something else."
            )
        candidates = [path.parent / named] if named else [path.with_suffix(s) for s in WEIGHT_SUFFIXES]
        return path, next((c for c in candidates if c.is_file()), candidates[0])
    for description in (path.with_suffix(".toml"), path.parent / "model.toml"):
        if description.is_file():
            return description, path
    raise ModelFileError(
        f"{path} holds weights only: expected {path.with_suffix('.toml').name} beside it that names the network "
        "([network] class, arguments; [spec] name, channels, window), found none."
    )


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value]
    return value
