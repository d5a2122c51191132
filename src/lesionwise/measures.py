"""Figures of one lesion's map: the map columns of `lesions.tsv`."""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from lesionwise.geometry.box import Box
from lesionwise.types import Millimetres, VoxelArray

SHELLS_MM = ((0.0, 3.0), (3.0, 7.0))
"""Distances (a, b] outside the lesion, in mm, over which the map is averaged."""


def distance_outside_mm(voxels: VoxelArray, box: Box, *, sizes_mm: Millimetres) -> np.ndarray:
    """Euclidean distance in mm (i, j, k) of every voxel of `box` to the nearest voxel of the lesion; 0 inside."""
    inside = np.zeros(box.shape, dtype=bool)
    inside[tuple((voxels - np.asarray(box.start)).T)] = True
    return ndimage.distance_transform_edt(~inside, sampling=sizes_mm)


def map_measures(
    data: np.ndarray,
    box: Box,
    voxels: VoxelArray,
    *,
    others: np.ndarray,
    sizes_mm: Millimetres,
    channels: tuple[str, ...],
) -> Mapping[str, float]:
    """Per channel: mean_in, mean_shell_0_3mm, mean_shell_3_7mm, mass_in, mass_out and share.

    `data` (channels, i, j, k) is the signed map on `box`, which must hold the lesion and 7 mm around it (pad with 0:
    the map is 0 beyond its crop); `others` (i, j, k) marks other lesions there, which the shells leave out. Target unit
    per SD; masses are sums over voxels. mass = sum of |M|; share = a channel's
    total |M| over that of all channels (nan for a map of zeros).
    """
    distance = distance_outside_mm(voxels, box, sizes_mm=sizes_mm)
    inside = distance == 0
    totals = np.abs(data).sum(axis=(1, 2, 3), dtype=float)
    measures: dict[str, float] = {}
    for name, values, total in zip(channels, data, totals, strict=True):
        measures[f"mean_in_{name}"] = float(values[inside].mean(dtype=float))
        for a, b in SHELLS_MM:
            shell = (distance > a) & (distance <= b) & ~others
            key = f"mean_shell_{a:g}_{b:g}mm_{name}"
            measures[key] = float(values[shell].mean(dtype=float)) if shell.any() else float("nan")
        mass_in = float(np.abs(values[inside]).sum(dtype=float))
        measures[f"mass_in_{name}"] = mass_in
        measures[f"mass_out_{name}"] = float(total) - mass_in
        measures[f"share_{name}"] = float(total / totals.sum()) if totals.sum() > 0 else float("nan")
    return measures
