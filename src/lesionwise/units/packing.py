"""Maps as they are kept: no more digits than the draws support, no farther from the lesion than asked for."""

import numpy as np

from lesionwise.geometry.box import Box
from lesionwise.types import MapArray, Millimetres, VoxelArray

DIGITS = 4
"""Binary digits kept below the standard error: rounding adds less than 0.1 % to it."""


def rounded(data: MapArray, se: MapArray | None) -> MapArray:
    """A map whose values are rounded to a power of two between 1/16 and 1/32 of their standard error.

    Digits below that are noise, which does not compress. Values without a standard error stay as they are.
    """
    if se is None:
        return data
    known = np.isfinite(se) & (se > 0)
    exponent = np.floor(np.log2(np.where(known, se, 1.0))) - DIGITS
    step = np.exp2(exponent)
    return np.where(known, np.round(data / step) * step, data).astype(data.dtype)


def near(box: Box, voxels: VoxelArray, *, keep_mm: float, sizes_mm: Millimetres) -> Box:
    """The part of a map's box that lies up to `keep_mm` from the box around the lesion, along each axis."""
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    margin = [int(np.ceil(keep_mm / size)) for size in sizes_mm]
    start = [max(a, int(v) - m) for a, v, m in zip(box.start, low, margin, strict=True)]
    stop = [min(b, int(v) + m) for b, v, m in zip(box.stop, high, margin, strict=True)]
    kept = [(a, b) if a < b else (c, c + 1) for a, b, c in zip(start, stop, box.start, strict=True)]
    return Box((kept[0][0], kept[1][0], kept[2][0]), (kept[0][1], kept[1][1], kept[2][1]))
