"""Other people's resampling, written down as one matrix per axis, so that its adjoint is exact.

Interpolation is linear in the image whatever its order: a matrix is read off by resampling unit impulses with the very
function the other software calls.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from lesionwise.geometry.grids import AxisMap, AxisOperator
from lesionwise.types import Shape


def linear_at(source: int, coordinates: Float[np.ndarray, " target"]) -> AxisOperator:
    """Linear interpolation of `source` samples at voxel coordinates, the border value beyond the border."""
    clipped = np.clip(coordinates, 0, source - 1)
    low = np.minimum(np.floor(clipped).astype(int), max(source - 2, 0))
    weight = clipped - low
    matrix = np.zeros((len(coordinates), source))
    rows = np.arange(len(coordinates))
    matrix[rows, low] += 1 - weight
    matrix[rows, np.minimum(low + 1, source - 1)] += weight
    return matrix


def nearest_at(source: int, coordinates: Float[np.ndarray, " target"]) -> AxisOperator:
    """The nearest of `source` samples at voxel coordinates, as `scipy.ndimage.map_coordinates` of order 0 rounds."""
    picked = ndimage.map_coordinates(np.arange(source, dtype=float), coordinates[None], order=0, mode="nearest")
    return np.eye(source)[picked.astype(int)]


def exact_nearest(source: int, coordinates: Float[np.ndarray, " target"]) -> AxisOperator:
    """The nearest of `source` samples, halves upward: `torch.nn.functional.interpolate(mode="nearest-exact")`."""
    return np.eye(source)[np.clip(np.floor(coordinates + 0.5), 0, source - 1).astype(int)]


@lru_cache(maxsize=64)
def spline_resize(source: int, target: int, order: int) -> AxisOperator:
    """`skimage.transform.resize(mode="edge", anti_aliasing=False)` along one axis: grids share their outer edges."""
    if source == target:
        return np.eye(source)
    impulses = np.eye(source)
    columns = [
        ndimage.zoom(impulse, 1 / (source / target), order=order, mode="nearest", grid_mode=True)
        for impulse in impulses
    ]
    matrix = np.stack(columns, axis=1)
    matrix[np.abs(matrix) < 1e-12] = 0.0  # the spline filter's tail, far below float32
    return matrix


def edge_coordinates(source: int, target: int) -> Float[np.ndarray, " target"]:
    """Centres of `target` voxels in voxel coordinates of `source` ones, the grids sharing their outer edges."""
    return source / target * (np.arange(target) + 0.5) - 0.5


def cropping(shape: Shape, start: Shape, stop: Shape) -> list[AxisOperator]:
    """Per axis, the matrix that keeps voxels start..stop; a range beyond the grid is filled with zeros."""
    matrices = []
    for n, low, high in zip(shape, start, stop, strict=True):
        matrix = np.zeros((high - low, n))
        inside = np.arange(max(low, 0), min(high, n))
        matrix[inside - low, inside] = 1.0
        matrices.append(matrix)
    return matrices


def axis_map(matrices: list[AxisOperator], permutation: tuple[int, ...] = (0, 1, 2)) -> AxisMap:
    """An AxisMap from three matrices in target order."""
    a, b, c = matrices
    p, q, r = permutation
    return AxisMap((a, b, c), (p, q, r))


def placed_back(matrices: list[AxisOperator], permutation: tuple[int, ...]) -> AxisMap:
    """The map from a network's axes to the scan's, from matrices (scan axis length, network axis length) in network
    order, where network axis a was scan axis `permutation[a]`."""
    inverse = [int(axis) for axis in np.argsort(permutation)]
    return axis_map([matrices[a] for a in inverse], tuple(inverse))


def resample_clipped(
    image: Float[Tensor, "channels i j k"], matrices: list[AxisOperator], separate: int | None
) -> tuple[Float[Tensor, "channels i2 j2 k2"], Bool[Tensor, "channels i2 j2 k2"]]:
    """Resamples and cuts the spline's overshoot off at each channel's range, as scikit-image does.

    With a coarse axis of its own every slice has its own range. Also returns where nothing was cut off.
    """
    spline = [np.eye(m.shape[1]) if axis == separate else m for axis, m in enumerate(matrices)]
    axes = [1, 2, 3] if separate is None else [axis + 1 for axis in range(3) if axis != separate]
    exact = axis_map(spline).forward(image.double())
    low, high = image.double().amin(axes, keepdim=True), image.double().amax(axes, keepdim=True)
    unclipped = (exact >= low - 1e-9) & (exact <= high + 1e-9)
    out = exact.clamp(low, high)
    if separate is not None:
        rest = axis_map([m if axis == separate else np.eye(m.shape[0]) for axis, m in enumerate(matrices)])
        out, unclipped = rest.forward(out), rest.forward(unclipped.double()) > 0.5
    return out.float(), unclipped
