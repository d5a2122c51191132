"""beartype as the shape checker wants it: an int is a float where a float is asked for (PEP 484)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from beartype import BeartypeConf, beartype

ANSWER_THEMSELVES = ("lesionwise.spec", "lesionwise.api", "lesionwise.units.settings")
"""Modules where people's values arrive and wrong ones get a sentence: the checker would speak first."""

TOO_BUSY = (
    "lesionwise.geometry.box",
    "lesionwise.attribution.engine.noise",
    "lesionwise.attribution.sparse.local",
    "lesionwise.attribution.sparse.convolutions",
    "lesionwise.attribution.sparse.footprint",
    "lesionwise.attribution.sparse.cotangents",
)
"""Modules called hundreds of thousands of times, layer by layer: checking them took a third of all tests' time."""

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its hints enforced, unless its module answers wrong values itself."""
    return function if getattr(function, "__module__", "") in ANSWER_THEMSELVES else _check(function)


def modules_to_check() -> list[str]:
    """Names of the package's modules, found as files: nothing is imported before the hook stands."""
    source = Path(__file__).parents[2] / "src"
    found = [path.relative_to(source).with_suffix("") for path in (source / "lesionwise").rglob("*.py")]
    names = [".".join(path.parts) for path in found if path.name != "__init__"]
    return sorted(name for name in names if name not in TOO_BUSY)
