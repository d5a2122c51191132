"""The models that ship with the package: weights/NAME.toml and weights/NAME.safetensors."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from lesionwise.errors import ModelFileError
from lesionwise.models import folds
from lesionwise.models.statedict import load_pair, read_toml
from lesionwise.segmenter import AbstractSegmenter

WEIGHTS = Path(str(files("lesionwise.models"))) / "weights"
"""Where the shipped weights lie."""


def names() -> list[str]:
    """Names of the shipped models, "builtin" first."""
    found = [path.stem for path in WEIGHTS.glob("*.toml") if path.with_suffix(".safetensors").is_file()]
    found += [path.name.removesuffix(folds.SUFFIX) for path in WEIGHTS.glob(f"*{folds.SUFFIX}")]
    return sorted(found, key=lambda name: (name != "builtin", name))


def summary(name: str) -> str:
    """One line about a shipped model, from its card."""
    of_folds = WEIGHTS / f"{name}{folds.SUFFIX}"
    if of_folds.is_file():
        return f"{folds.description(of_folds).get('card', {}).get('summary', '')}; the network of each fold"
    return str(read_toml(WEIGHTS / f"{name}.toml").get("card", {}).get("summary", ""))


def options(name: str) -> Mapping[str, str]:
    """Options that may follow a shipped model's name: those of a cross-validated model, if it is one."""
    return folds.OPTIONS if (WEIGHTS / f"{name}{folds.SUFFIX}").is_file() else {}


def load(name: str, options: Mapping[str, str] | None = None) -> AbstractSegmenter:
    """A shipped model by name; `options` are those of a cross-validated model, where the name is of one.

    Raises ModelFileError if this installation holds no such weights.
    """
    of_folds = WEIGHTS / f"{name}{folds.SUFFIX}"
    if of_folds.is_file():
        return folds.load(of_folds, options=options, fits=True)
    description = WEIGHTS / f"{name}.toml"
    if not description.is_file():
        shipped = ", ".join(names()) or "none"
        raise ModelFileError(f"Expected the shipped model {name} in {WEIGHTS}, found {shipped}.")
    return load_pair(description, description.with_suffix(".safetensors"), fits=True)
