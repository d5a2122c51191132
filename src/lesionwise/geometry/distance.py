"""The one distance to the border of a mask: signed, Euclidean, in mm (METHOD section 5).

A mask is made of whole voxels, so its border runs along the voxels' faces: half a voxel beyond the outermost voxel
centres along each axis, whatever the voxel's shape. Distances are from voxel centres to that border.
"""

import numpy as np
from jaxtyping import Float64

from lesionwise.geometry.box import Box
from lesionwise.types import MaskArray, Millimetres

DistanceArray = Float64[np.ndarray, "i j k"]
_SLAB_VOX = 1 << 16


def distance_to_mm(mask: MaskArray, sizes_mm: Millimetres, *, reach_mm: int | float | None = None) -> DistanceArray:
    """Distance of every voxel centre to the nearest point of the mask's voxels, in mm; 0 in the mask.

    Exact for any voxel shape. With `reach_mm` what lies farther is infinite, which is quicker; an empty mask is
    infinitely far away.

    >>> row = np.zeros((1, 1, 4), dtype=bool); row[0, 0, 0] = True
    >>> distance_to_mm(row, (1.0, 1.0, 2.0)).tolist()
    [[[0.0, 1.0, 3.0, 5.0]]]
    """
    found = np.full(mask.shape, np.inf)
    if not mask.any():
        return found
    box = _near(mask, sizes_mm, reach_mm)
    squared = _first_axis(mask[box.slices], sizes_mm[0])
    for axis in (1, 2):
        squared = _along(squared, axis, sizes_mm[axis], reach_mm)
    near = np.sqrt(squared)
    if reach_mm is not None:
        near[near > reach_mm] = np.inf
    found[box.slices] = near
    return found


def signed_distance_mm(mask: MaskArray, sizes_mm: Millimetres, *, reach_mm: int | float | None = None) -> DistanceArray:
    """Distance of every voxel centre to the mask's border in mm, negative inside; beyond the grid lies no mask.

    With `reach_mm` voxels outside that lie farther are infinite. A mask without a voxel is infinitely far away.

    >>> voxel = np.zeros((1, 1, 3), dtype=bool); voxel[0, 0, 1] = True
    >>> signed_distance_mm(voxel, (0.9, 0.9, 6.5)).tolist()
    [[[3.25, -0.45, 3.25]]]
    """
    found = distance_to_mm(mask, sizes_mm, reach_mm=reach_mm)
    found[mask] = -depth_mm(mask, sizes_mm)[mask]
    return found


def depth_mm(mask: MaskArray, sizes_mm: Millimetres) -> DistanceArray:
    """How deep every voxel centre lies in the mask: its distance to the border in mm, 0 outside."""
    depth = np.zeros(mask.shape)
    if not mask.any():
        return depth
    box = Box.around(np.argwhere(mask))
    beyond = np.pad(~mask[box.slices], 1, constant_values=True)
    depth[box.slices] = distance_to_mm(beyond, sizes_mm)[1:-1, 1:-1, 1:-1]
    return depth


def _near(mask: MaskArray, sizes_mm: Millimetres, reach_mm: int | float | None) -> Box:
    """The part of the grid within reach of the mask."""
    shape = (mask.shape[0], mask.shape[1], mask.shape[2])
    if reach_mm is None:
        return Box.whole(shape)
    around = Box.around(np.argwhere(mask))
    margin = [int(np.ceil(reach_mm / size + 0.5)) for size in sizes_mm]
    start = [max(a - m, 0) for a, m in zip(around.start, margin, strict=True)]
    stop = [min(b + m, n) for b, m, n in zip(around.stop, margin, shape, strict=True)]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _first_axis(mask: MaskArray, size_mm: float) -> np.ndarray:
    """Squared distance along the first axis alone; infinite in rows without a voxel of the mask."""
    place = np.arange(float(len(mask)))[:, None, None]
    before = np.maximum.accumulate(np.where(mask, place, -np.inf), axis=0)
    after = np.minimum.accumulate(np.where(mask, place, np.inf)[::-1], axis=0)[::-1]
    steps = np.minimum(place - before, after - place)
    return (np.maximum(steps - 0.5, 0.0) * size_mm) ** 2


def _along(squared: np.ndarray, axis: int, size_mm: float, reach_mm: int | float | None) -> np.ndarray:
    """min over k of (squared at k voxels away) + (the gap to that voxel's near face)^2, along one axis.

    The square of a distance is the sum of such terms over the axes, so three of these passes make it exact.
    """
    found = squared.copy()
    thick = max(1, _SLAB_VOX // max(1, squared[:1].size))
    for start in range(0, len(squared), thick):  # what fits a core's cache goes several times faster
        _within(squared[start : start + thick], found[start : start + thick], axis, size_mm, reach_mm)
    return found


def _within(squared: np.ndarray, found: np.ndarray, axis: int, size_mm: float, reach_mm: int | float | None) -> None:
    """`_along` of one slab, into `found`, which holds the values at 0 voxels away."""
    sums, length = np.empty_like(squared), squared.shape[axis]
    for k in range(1, length):
        gap = ((k - 0.5) * size_mm) ** 2
        if gap >= found.max() or (reach_mm is not None and gap > reach_mm**2):
            break
        later, earlier = [slice(None)] * 3, [slice(None)] * 3
        later[axis], earlier[axis] = slice(k, None), slice(None, length - k)
        for here, there in ((tuple(later), tuple(earlier)), (tuple(earlier), tuple(later))):
            np.minimum(found[here], np.add(squared[there], gap, out=sums[there]), out=found[here])
