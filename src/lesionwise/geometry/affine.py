"""What an affine says: how large a voxel is, where it lies in the world, along which of the world's axes it runs."""

import numpy as np

from lesionwise.types import Affine, Millimetres, Shape

SAME_GRID_VOX = 0.1
"""Largest shift of any corner of a grid, in voxels along any axis, under which two affines count as the same grid."""

ROUNDING_MM = 1e-3
"""Shift of a corner that rounding in a header explains: not worth a word."""


def voxel_sizes_mm(affine: Affine) -> Millimetres:
    """Edge lengths of a voxel in mm: the column norms of the affine."""
    a, b, c = np.linalg.norm(affine[:3, :3], axis=0)
    return float(a), float(b), float(c)


def voxel_volume_mm3(affine: Affine) -> float:
    """Volume of a voxel in mm3: |det| of the affine, right for sheared grids too."""
    return float(abs(np.linalg.det(affine[:3, :3])))


def shifted_affine(affine: Affine, start: Shape) -> Affine:
    """Affine of a crop that starts at voxel `start`."""
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ np.asarray(start, dtype=affine.dtype) + affine[:3, 3]
    return moved


def to_mm(voxels: np.ndarray, affine: Affine) -> np.ndarray:
    """World coordinates (n, 3) in RAS mm of voxel coordinates (n, 3)."""
    return np.asarray(voxels, dtype=float) @ affine[:3, :3].T + affine[:3, 3]


def grid_shift_mm(first: Affine, second: Affine, shape: Shape) -> float:
    """Largest distance in mm between the places where two affines put the corners of a grid."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    return float(np.linalg.norm(to_mm(corners, first) - to_mm(corners, second), axis=1).max())


def grid_shift_vox(first: Affine, second: Affine, shape: Shape) -> float:
    """Largest distance, in voxels of `second` along any of its axes, between where two affines put a grid's corners."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    apart = to_mm(corners, first) - to_mm(corners, second)
    return float(np.abs(apart @ np.linalg.inv(second[:3, :3]).T).max())


def same_grid(shape: Shape, affine: Affine, like: tuple[Shape, Affine]) -> bool:
    """True if two grids have one shape and corners within a tenth of a voxel of one another."""
    return tuple(shape) == tuple(like[0]) and grid_shift_vox(affine, like[1], shape) <= SAME_GRID_VOX


def closest_axes(affine: Affine) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For each voxel axis the world axis (0 x, 1 y, 2 z) that it runs closest along, and the direction (1 or -1).

    The rule of nibabel's `io_orientation`, and so of MONAI and the tools around it: the affine without its zooms and
    shears (polar decomposition), then axis by axis, the most decided first; no world axis is given twice.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(directions)
    rotation = left @ right
    world, sign = [0, 0, 0], [1, 1, 1]
    for axis in np.argsort(np.min(-(rotation**2), axis=0), kind="stable"):
        nearest = int(np.argmax(np.abs(rotation[:, axis])))
        world[axis], sign[axis] = nearest, 1 if rotation[nearest, axis] > 0 else -1
        rotation[nearest, :] = 0.0
    return (world[0], world[1], world[2]), (sign[0], sign[1], sign[2])
