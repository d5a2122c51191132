"""What a user may choose, with one name and one meaning in every command."""

from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.options import RunOptions
from lesionwise.attribution.methods.gradient import SmoothGrad
from lesionwise.attribution.target import AbstractTarget, target_named
from lesionwise.errors import InputError
from lesionwise.fingerprint import fingerprint
from lesionwise.instances.matching import read_selection

LEAST_KEPT_MM = 10.0
"""Beyond the shells whose means are in the table."""


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "nothing"}


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
        for name, hint in get_type_hints(Settings).items():
            _check_kind(name, getattr(self, name), get_args(hint) or (hint,))
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


def _check_kind(name: str, value: object, kinds: tuple[type, ...]) -> None:
    """Raises InputError for a value of another kind than the annotation's, whoever wrote it: a person or a damaged file."""
    taken = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, taken) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
        raise InputError(f"Expected {wanted} for the setting {name}, found {value!r}.")


def map_units(settings: Settings) -> str:
    """Unit of the map's values."""
    return settings.method.units(target_named(settings.target))
