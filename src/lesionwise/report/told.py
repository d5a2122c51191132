"""The numbers that sentences are made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Beside:
    """The same number of `count` control regions of this scan: smallest, median, largest; `alike` in size, or all."""

    low: float
    middle: float
    high: float
    count: int
    alike: bool


@dataclass(frozen=True)
class Push:
    """One channel: what one SD more throughout the lesion (and its rim, 0-3 mm) does to the target, with standard errors.

    `against` is the share of the lesion's voxels whose sign is opposed to the effect. `strongest` is the signed value of
    largest magnitude, `strongest_mm` its distance outside the lesion: 0 inside, None beyond what was looked at.
    """

    channel: str
    effect: float
    se: float | None
    rim: float
    rim_se: float | None
    against: float
    strongest: float
    strongest_mm: float | None
    beside: Beside | None = None


@dataclass(frozen=True)
class Drawn:
    """Of the reference lesions that a lesion meets: how many, their volume, how much of it is drawn, and their numbers in
    the reference where they are known."""

    lesions: int
    reference_mm3: float
    shared_mm3: float
    numbers: tuple[int, ...] = ()


def finite(row: Mapping[str, Any], column: str) -> float | None:
    """A value of the table, None if the column is missing or holds n/a."""
    value = row.get(column)
    if value is None or isinstance(value, str):
        return None
    return float(value) if math.isfinite(float(value)) else None
