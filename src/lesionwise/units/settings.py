"""What a user may choose, with one name and one meaning in every command."""

from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.options import RunOptions
from lesionwise.attribution.methods.gradient import SmoothGrad
from lesionwise.attribution.target import AbstractTarget, target_named
from lesionwise.errors import InputError
from lesionwise.fingerprint import fingerprint
from lesionwise.instances.matching import read_selection

LEAST_KEPT_MM = 10.0
"""Beyond the shells whose means are in the table."""


_WORDS: dict[type, str] = {
    str: "text",
    Integral: "a whole number",
    Real: "a number",
    bool: "true or false",
    type(None): "nothing",
}
_WHOLE, _NUMBER, _NOTHING = (Integral,), (Real,), (type(None),)
_KINDS: dict[str, tuple[type, ...]] = {
    "lesions": (str,),
    "controls": _WHOLE,
    "threshold": _NUMBER + _NOTHING,
    "connectivity": _WHOLE,
    "min_size": _NUMBER + _NOTHING,
    "min_size_unit": (str,),
    "rule": (str,),
    "one_to_one": (bool,),
    "seed": _WHOLE,
    "device": (str,),
    "snr": (bool,),
    "lesion_window": (bool,),
    "statistics": (str,),
    "views": (str, Integral),
    "save_parts": (bool,),
    "keep_mm": _NUMBER + _NOTHING,
}
"""What may stand in each setting, whoever wrote it: a person in Python, or a damaged file."""


@dataclass(frozen=True)
class Settings:
    """What a user may choose; the same names and meanings in every command.

    `threshold`, `min_size` None take the model's. `lesions` is "all", "largest:5", "drawn:9" or "1,4". `controls` asks for that
    many control regions in healthy white matter. `lesion_window` is an approximation: each lesion is explained through
    one window around it, not through those that predicted it. `statistics` and `views` are those of `RunOptions`;
    `save_parts` also writes the two parts of a split map. `keep_mm` cuts saved maps off so far from their lesion's box.
    """

    method: AbstractMethod = field(default_factory=SmoothGrad)
    target: str | AbstractTarget = "log_odds"
    lesions: str = "all"
    controls: int = 0
    threshold: float | None = None
    connectivity: int = 18
    min_size: float | None = None
    min_size_unit: str = "voxels"
    rule: str = "overlap"
    one_to_one: bool = False
    seed: int = 0
    device: str = "cpu"
    snr: bool = False
    lesion_window: bool = False
    statistics: str = "auto"
    views: str | int = "all"
    save_parts: bool = False
    keep_mm: float | None = None

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                wanted = " or ".join(_WORDS[kind] for kind in kinds)
                raise InputError(f"Expected {wanted} for the setting {name}, found {value!r}.")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError(f"A probability threshold must lie between 0 and 1, found {self.threshold}.")
        if self.connectivity not in (6, 18, 26):
            raise InputError(f"Connectivity must be 6, 18 or 26, found {self.connectivity}.")
        if self.controls < 0:
            raise InputError(f"The number of control regions must not be negative, found {self.controls}.")
        if self.keep_mm is not None and not self.keep_mm >= LEAST_KEPT_MM:
            raise InputError(
                f"A map must be kept up to {LEAST_KEPT_MM:g} mm from its lesion, which the table reads, found {self.keep_mm}."
            )
        read_selection(self.lesions)
        self.run_options()

    def run_options(self, memory_bytes: int | None = None) -> RunOptions:
        """What the attribution is asked for."""
        return RunOptions(
            target=self.target,
            seed=self.seed,
            device=self.device,
            memory_bytes=memory_bytes,
            lesion_window=self.lesion_window,
            statistics=self.statistics,
            views=self.views,
        )

    @property
    def key(self) -> tuple[tuple[str, Any], ...]:
        """What results depend on: all but the device; a method or target of one's own counts with its code."""
        own = {"method": fingerprint(self.method), "target": fingerprint(target_named(self.target))}
        return tuple((f.name, own.get(f.name, getattr(self, f.name))) for f in fields(self) if f.name != "device")


def map_units(settings: Settings) -> str:
    """Unit of the map's values."""
    return settings.method.units(target_named(settings.target))
