"""The models that ship with the package: weights/NAME.toml and weights/NAME.safetensors."""

from importlib.resources import files
from pathlib import Path

from lesionwise.errors import ModelFileError
from lesionwise.models.statedict import load_pair, read_toml
from lesionwise.segmenter import AbstractSegmenter

WEIGHTS = Path(str(files("lesionwise.models"))) / "weights"
"""Where the shipped weights lie."""


def names() -> list[str]:
    """Names of the shipped models, "builtin" first."""
    found = sorted(path.stem for path in WEIGHTS.glob("*.toml") if path.with_suffix(".safetensors").is_file())
    return sorted(found, key=lambda name: name != "builtin")


def summary(name: str) -> str:
    """One line about a shipped model, from its card."""
    return str(read_toml(WEIGHTS / f"{name}.toml").get("card", {}).get("summary", ""))


def load(name: str) -> AbstractSegmenter:
    """A shipped model by name. Raises ModelFileError if this installation holds no such weights."""
    description = WEIGHTS / f"{name}.toml"
    if not description.is_file():
        shipped = ", ".join(names()) or "none"
        raise ModelFileError(f"Expected the shipped model {name} in {WEIGHTS}, found {shipped}.")
    return load_pair(description, description.with_suffix(".safetensors"))
