"""Colour limits: symmetric, and the same for all lesions of a scan, so that colours compare."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


def colour_limit(tops: Sequence[float]) -> float:
    """The median over lesions of the largest magnitude, to two significant digits; 1 if there are no maps.

    Half of the lesions reach full colour and none fades away beside a single strong one.

    >>> colour_limit([0.0101, 0.02345, 0.9])
    0.023
    """
    positive = [top for top in tops if top > 0 and math.isfinite(top)]
    if not positive:
        return 1.0
    limit = float(np.median(positive))
    return round(limit, 1 - math.floor(math.log10(limit)))


def table_tops(lesions: pd.DataFrame, channels: Sequence[str], *, voxel_mm3: float | None = None) -> list[float]:
    """Largest magnitude per explained lesion over all channels, from the table's peaks and troughs; with `voxel_mm3`
    times the lesion's voxels."""
    columns = [f"{what}_{channel}" for what in ("peak", "trough") for channel in channels]
    known = [column for column in columns if column in lesions]
    if not known:
        return []
    tops = lesions[known].apply(pd.to_numeric, errors="coerce").abs().max(axis=1)
    if voxel_mm3 is not None:
        tops = tops * lesions["volume_mm3"] / voxel_mm3
    return [float(top) for top in tops.dropna()]


@dataclass(frozen=True)
class ColourScale:
    """One colour scale for all lesions of a scan.

    A map by reduction mean shrinks as its lesion grows: it is shown times the lesion's voxels (`summed`), so that equal
    colours mean equal changes of the lesion's whole output, whatever its size.
    """

    limit: float
    summed: bool

    @classmethod
    def of_table(
        cls, lesions: pd.DataFrame, channels: Sequence[str], *, voxel_mm3: float, derivative: bool
    ) -> "ColourScale | None":
        """By the table's peaks; None where it has none."""
        tops = table_tops(lesions, channels, voxel_mm3=voxel_mm3 if derivative else None)
        return cls(colour_limit(tops), derivative) if tops else None

    def at(self, voxels: int) -> float:
        """The map's own value at full colour, for a lesion of so many voxels."""
        return self.limit / max(voxels, 1) if self.summed else self.limit
