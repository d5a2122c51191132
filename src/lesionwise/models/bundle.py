"""MONAI bundles: a folder with configs/metadata.json, configs/inference.json and models/model.pt or model.ts.

Network, inferer and preprocessing are read as data. A network class outside `monai.networks.nets`, or an expression
("$...") where a value is needed, would have to run code and is refused unless `trust` is given. A `lesionwise.toml` in
the bundle with a [spec] table says what the bundle leaves open (names of the channels, lesion class).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lesionwise.errors import ModelFileError, with_words_of
from lesionwise.geometry.volume import Case
from lesionwise.models import preprocessing
from lesionwise.models.architecture import build, checked, load_weights
from lesionwise.models.channels import input_names, lesion_classes
from lesionwise.models.exported import script
from lesionwise.models.expressions import worked_out
from lesionwise.models.statedict import read_toml, read_weights
from lesionwise.segmenter import AbstractModuleSegmenter, AbstractSegmenter, Placement, Spec

OPTIONS = {
    "channels": "FLAIR,T1w: names of the inputs, in order (those of metadata.json)",
    "lesion": "the class that is the lesion, by name or number; 1,2 takes several as one",
}

_REFERENCE = re.compile(r"@[\w#:.]+")
_CONFIGS = ("inference.json", "inference.yaml", "inference.yml", "train.json", "train.yaml")


def claims(path: Path) -> bool:
    """True for a folder with MONAI's metadata.json and a configuration."""
    root = path / "configs"
    return (root / "metadata.json").is_file() and any((root / name).is_file() for name in _CONFIGS)


def load(path: Path, *, trust: bool = False, options: Mapping[str, str] | None = None) -> AbstractSegmenter:
    """Reads a bundle. Raises ModelFileError with one sentence on what is missing or would run code."""
    chosen = dict(options or {})
    where = str(path)
    metadata = _read_json(path / "configs" / "metadata.json")
    file = next(path / "configs" / name for name in _CONFIGS if (path / "configs" / name).is_file())
    config = Config(read_config(file), str(file))
    own = dict(read_toml(path / "lesionwise.toml").get("spec", {})) if (path / "lesionwise.toml").is_file() else {}

    formats = metadata.get("network_data_format", {})
    image = next(iter(formats.get("inputs", {"image": {}}).values()))
    output = next(iter(formats.get("outputs", {"pred": {}}).values()))
    channels = _channels(image, own, chosen.get("channels"), where)
    classes = int(own.get("classes", output.get("num_channels", 2)))
    activation = str(own.get("activation", _activation(config, classes)))
    spec = Spec(
        name=str(own.get("name", metadata.get("name", path.name))),
        channels=channels,
        classes=classes,
        lesion_class=_lesion(output, own, chosen.get("lesion"), classes, where),
        activation="sigmoid" if activation == "sigmoid" else "softmax",
        threshold=float(own.get("threshold", 0.5)),
        **_windows(config, image, own),
        orientation=None,
        spacing_mm=None,
        normalisation="none",
        cam_layer=own.get("cam_layer"),
        card={
            "kind": "MONAI bundle",
            "version": str(metadata.get("version", "unknown")),
            "task": str(metadata.get("task", "")),
            "licence": str(metadata.get("copyright", "")),
        },
    )
    steps = preprocessing.monai_steps(config.get("preprocessing"), where=str(file))
    module = _network(path, config, trust=trust)
    module = checked(module, channels=len(channels), classes=classes, window=spec.window, where=where)
    return Bundle(module, spec, steps)


@dataclass(frozen=True, eq=False)
class Bundle(AbstractModuleSegmenter):
    """A bundle's network with its preprocessing."""

    steps: preprocessing.Steps

    @property
    def preprocessing(self) -> tuple[str, ...]:
        """The steps before the network, in words."""
        return self.steps.sentences()

    def place(self, case: Case) -> Placement:
        """The bundle's own preprocessing, with the maps there and back."""
        return self.steps.place(case, self.spec.channels)


@dataclass(frozen=True)
class Config:
    """A bundle's configuration, in which "@a" and "@a#b" point at other values; "$..." is worked out if it is arithmetic on
    literals and left as it is otherwise."""

    content: Mapping[str, Any]
    where: str

    def get(self, key: str, default: Any = None) -> Any:
        """The value under a key with its references followed; `default` if there is none."""
        return self.resolve(self.content[key]) if key in self.content else default

    def resolve(self, value: Any, depth: int = 0) -> Any:
        """A value with the references in it replaced by what they point at."""
        if depth > 20:
            raise ModelFileError(f"Expected references without a circle in {self.where}.")
        if isinstance(value, str) and value.startswith("@"):
            return self.resolve(self._at(value[1:]), depth + 1)
        if isinstance(value, str) and value.startswith("$"):
            return self._worked_out(value, depth)
        if isinstance(value, Mapping):
            return {key: self.resolve(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, depth + 1) for item in value]
        return value

    def _worked_out(self, value: str, depth: int) -> Any:
        """The value of an expression that is arithmetic on numbers, lists and references to them; the text of any other."""

        def number(match: re.Match[str]) -> str:
            found = self.resolve(match.group(0), depth + 1)
            return repr(found) if isinstance(found, int | float | list) else match.group(0)

        try:
            return worked_out(_REFERENCE.sub(number, value[1:]))
        except ValueError:
            return value

    def _at(self, path: str) -> Any:
        value: Any = self.content
        for part in path.replace("::", "#").split("#"):
            try:
                value = value[int(part)] if isinstance(value, list) else value[part]
            except (KeyError, IndexError, ValueError, TypeError):
                return f"$@{path}"
        return value


def read_config(path: Path) -> dict[str, Any]:
    """A JSON or YAML configuration as plain data."""
    if path.suffix == ".json":
        return _read_json(path)
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ModelFileError(f"Expected YAML in {path}, but it cannot be parsed.") from error
    return dict(content or {})


def _network(path: Path, config: Config, *, trust: bool) -> nn.Module:
    """The network with its weights: rebuilt from its definition, else the TorchScript file."""
    weights, scripted = path / "models" / "model.pt", path / "models" / "model.ts"
    definition = config.get("network_def", config.get("net", config.get("network")))
    if weights.is_file() and definition is not None and (isinstance(definition, Mapping) or not scripted.is_file()):
        network = _build(definition, path, config, trust=trust)
        return load_weights(network, read_weights(weights), where=str(weights))
    if weights.is_file() and not scripted.is_file():
        raise ModelFileError(f"Expected network_def in {config.where}, found none.")
    if scripted.is_file():
        return script(scripted, trust=trust)
    raise ModelFileError(f"Expected models/model.pt or models/model.ts in {path}, found neither.")


def _build(definition: Any, path: Path, config: Config, *, trust: bool) -> nn.Module:
    known = definition if isinstance(definition, Mapping) else {}
    target = str(known.get("_target_", ""))
    arguments = {key: value for key, value in known.items() if not key.startswith("_")}
    leaves = _leaves(arguments if known else definition)
    expressions = [str(value) for value in leaves if isinstance(value, str) and (value.startswith("$") or not known)]
    foreign = "." in target and not target.startswith("monai.networks.nets.")
    if not expressions and not foreign:
        name = target if target.startswith("monai.networks.nets.") else f"monai.networks.nets.{target}"
        return build(name, arguments, where=config.where)
    if not trust:
        what = f"the expression {expressions[0]}" if expressions else f"the class {target}"
        raise ModelFileError(
            f"The network of {path} needs {what}, which would run code of the bundle: pass --trust if you trust its source."
        )
    return _run(path, config)


def _run(path: Path, config: Config) -> nn.Module:
    """Builds the network as MONAI does, the bundle's own code included; only after `trust`."""
    import sys

    from monai.bundle import ConfigParser

    sys.path.insert(0, str(path))
    try:
        parser = ConfigParser(dict(config.content))
        parser["bundle_root"] = str(path)
        key = next(key for key in ("network_def", "net", "network") if key in config.content)
        network = parser.get_parsed_content(key)
    except (ImportError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFileError(f"The network of {path} cannot be built{with_words_of(error)}") from error
    finally:
        sys.path.remove(str(path))
    return network


def _windows(config: Config, image: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Window, overlap, blending and sigma of the inferer; MONAI's defaults where it says nothing."""
    inferer = config.get("inferer", {})
    sliding = isinstance(inferer, Mapping) and str(inferer.get("_target_", "")).endswith("SlidingWindowInferer")
    shape = inferer.get("roi_size") if sliding else image.get("spatial_shape")
    window = own.get("window", shape)
    if isinstance(window, int):
        window = [window] * 3
    if not (isinstance(window, list) and len(window) == 3 and all(isinstance(n, int) and n > 0 for n in window)):
        raise ModelFileError(
            f"Expected a window of three numbers (inferer roi_size, or [spec] window in lesionwise.toml) for "
            f"{config.where}, found {window}."
        )
    if not sliding:
        return {"window": tuple(window), "overlap": float(own.get("overlap", 0.0)), "blending": "constant"}
    overlap, sigma = inferer.get("overlap", 0.25), inferer.get("sigma_scale", 0.125)
    return {
        "window": tuple(window),
        "overlap": float(own.get("overlap", overlap if isinstance(overlap, int | float) else 0.25)),
        "blending": "gaussian" if str(inferer.get("mode", "constant")) == "gaussian" else "constant",
        "sigma_scale": float(sigma) if isinstance(sigma, int | float) else 0.125,
    }


def _channels(image: Mapping[str, Any], own: Mapping[str, Any], given: str | None, where: str) -> tuple[str, ...]:
    """Names of the inputs: given, of lesionwise.toml, else of the metadata."""
    number = int(image.get("num_channels", 1))
    if given is not None or "channels" in own:
        named = given if given is not None else ",".join(map(str, own["channels"]))
        return input_names([f"input {n}" for n in range(number)], given=named, where=where)
    defined = image.get("channel_def", {})
    names = [str(defined[key]) for key in sorted(defined, key=int)]
    if len(names) == number and not any(name.lower() in ("image", "mri", "input") for name in names):
        return input_names(names, given=None, where=where)
    raise ModelFileError(
        f"The bundle {where} does not say what its {number} input channels are: name them with ?channels=FLAIR,T1w or in "
        "[spec] channels of a lesionwise.toml in it."
    )


def _lesion(output: Mapping[str, Any], own: Mapping[str, Any], given: str | None, classes: int, where: str) -> Any:
    if given is None and "lesion_class" in own:
        return own["lesion_class"]
    defined = output.get("channel_def", {})
    names = [str(defined[key]) for key in sorted(defined, key=int)]
    if len(names) != classes:
        names = ["lesion"] if classes == 1 else ["background", *(f"class {n}" for n in range(1, classes))]
    return lesion_classes(names, wanted=given, where=where)


def _activation(config: Config, classes: int) -> str:
    """Of the postprocessing's Activationsd; softmax from two classes on if it says nothing."""
    transforms = config.get("postprocessing", {})
    steps = transforms.get("transforms", []) if isinstance(transforms, Mapping) else transforms
    for step in steps if isinstance(steps, list) else []:
        if (
            isinstance(step, Mapping)
            and str(step.get("_target_", "")).startswith("Activations")
            and step.get("sigmoid")
        ):
            return "sigmoid"
    return "sigmoid" if classes == 1 else "softmax"


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        at = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ModelFileError(f"Expected JSON in {path}, but it cannot be parsed{at}.") from error
