"""Figures of one lesion's map: the map columns of `lesions.tsv`."""

from collections.abc import Mapping

import numpy as np

from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.types import Millimetres, VoxelArray

SHELLS_MM = ((0.0, 3.0), (3.0, 7.0))
"""Distances (a, b] outside the lesion's border, in mm, over which the map is averaged."""

RIM_MM = SHELLS_MM[0]
"""The rim of a lesion: distances (a, b] outside it, in mm."""


def effect_regions(voxels: VoxelArray, labels: np.ndarray, *, sizes_mm: Millimetres) -> tuple[np.ndarray, np.ndarray]:
    """The voxels (n, 3) of the lesion and of its rim; `labels` (i, j, k) holds all instances, others are left out."""
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    # The border lies half a voxel beyond the voxels' centres: one voxel more.
    box = Box.around(voxels, margin=int(np.ceil(RIM_MM[1] / min(sizes_mm))) + 1, shape=shape)
    distance = _distance_mm(voxels, box, sizes_mm=sizes_mm)
    rim = (distance > RIM_MM[0]) & (distance <= RIM_MM[1]) & (labels[box.slices] == 0)
    return voxels, np.argwhere(rim) + np.asarray(box.start)


def map_measures(
    data: np.ndarray,
    box: Box,
    voxels: VoxelArray,
    *,
    others: np.ndarray,
    sizes_mm: Millimetres,
    channels: tuple[str, ...],
    derivative: bool = False,
) -> Mapping[str, float]:
    """Per channel: effect_in and effect_rim (if the map is a `derivative`), mean_in, mean_shell_0_3mm, mean_shell_3_7mm,
    mass_in, mass_out and share.

    `data` (channels, i, j, k) is the signed map on `box`, which must hold the lesion and 7 mm around it (pad with 0:
    the map is 0 beyond its crop); `others` (i, j, k) marks other lesions there, which the shells leave out. Target unit
    per SD; masses are sums over voxels. effect = sum of M over the lesion (its 0-3 mm rim): what its
    target gains where the channel is one SD brighter there. mass = sum of |M|; share = a channel's
    total |M| over that of all channels (nan for a map of zeros).
    """
    distance = _distance_mm(voxels, box, sizes_mm=sizes_mm)
    inside = distance == 0
    totals = np.abs(data).sum(axis=(1, 2, 3), dtype=float)
    measures: dict[str, float] = {}
    for name, values, total in zip(channels, data, totals, strict=True):
        measures[f"mean_in_{name}"] = float(values[inside].mean(dtype=float))
        if derivative:
            measures[f"effect_in_{name}"] = float(values[inside].sum(dtype=float))
            rim = (distance > RIM_MM[0]) & (distance <= RIM_MM[1]) & ~others
            measures[f"effect_rim_{name}"] = float(values[rim].sum(dtype=float))
        for a, b in SHELLS_MM:
            shell = (distance > a) & (distance <= b) & ~others
            key = f"mean_shell_{a:g}_{b:g}mm_{name}"
            measures[key] = float(values[shell].mean(dtype=float)) if shell.any() else float("nan")
        mass_in = float(np.abs(values[inside]).sum(dtype=float))
        measures[f"mass_in_{name}"] = mass_in
        measures[f"mass_out_{name}"] = float(total) - mass_in
        measures[f"share_{name}"] = float(total / totals.sum()) if totals.sum() > 0 else float("nan")
    return measures


def _distance_mm(voxels: VoxelArray, box: Box, *, sizes_mm: Millimetres) -> np.ndarray:
    """Distance (i, j, k) of every voxel of `box` to the lesion's border, 0 in the lesion, infinite beyond all shells."""
    inside = np.zeros(box.shape, dtype=bool)
    inside[tuple((voxels - np.asarray(box.start)).T)] = True
    return distance_to_mm(inside, sizes_mm, reach_mm=SHELLS_MM[-1][1])
