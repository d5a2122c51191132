"""Linear maps from one voxel grid to another, each with its exact adjoint.

A model that crops, flips, transposes, pads or resamples sees `R x` instead of the scan `x`. Predictions come back by
another such map, and derivatives by the adjoint `R^T` - never by interpolating the map (METHOD section 3).
All maps here are separable: they transpose axes, then apply one matrix per axis.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lesionwise.errors import InputError
from lesionwise.geometry.affine import closest_axes, voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.types import Affine, Millimetres, Shape

AxisOperator = Float[np.ndarray, "_ _"]


class AbstractGridMap(ABC):
    """A linear map of the last three axes of a tensor, with its adjoint: <forward(x), g> = <x, adjoint(g)>."""

    source_shape: Shape
    target_shape: Shape

    @abstractmethod
    def forward(self, x: Float[Tensor, "*lead i j k"]) -> Float[Tensor, "*lead i2 j2 k2"]:
        """Takes an image on the source grid to the target grid."""

    @abstractmethod
    def adjoint(self, g: Float[Tensor, "*lead i2 j2 k2"]) -> Float[Tensor, "*lead i j k"]:
        """Takes a derivative with respect to the target grid's voxels to the source grid's voxels."""

    @abstractmethod
    def restrict(self, target: Box) -> tuple["AbstractGridMap", Box]:
        """The map onto a box of the target grid, and the box of the source grid that alone it depends on."""

    @abstractmethod
    def support(self, source: Box) -> Box:
        """The box of the target grid that a box of the source grid can influence."""

    @property
    def is_identity(self) -> bool:
        """True if `forward` returns its argument unchanged."""
        return False


@dataclass(frozen=True, eq=False)
class AxisMap(AbstractGridMap):
    """Transposes axes (`target axis a` reads `source axis permutation[a]`), then applies one matrix per axis.

    A matrix (target length, source length) may crop, pad, flip, resample or all at once. Rows with a single 1 are
    gathered instead of multiplied, so that flips and crops cost no arithmetic and stay exact.
    """

    matrices: tuple[AxisOperator, AxisOperator, AxisOperator]
    permutation: tuple[int, int, int] = (0, 1, 2)

    def __post_init__(self) -> None:
        if sorted(self.permutation) != [0, 1, 2]:
            raise InputError(f"A permutation must hold 0, 1 and 2 once each, found {self.permutation}.")

    @classmethod
    def identity(cls, shape: Shape) -> "AxisMap":
        """The map that changes nothing."""
        return cls(_triple([np.eye(n) for n in shape]))

    @property
    def source_shape(self) -> Shape:  # type: ignore[override]
        """Grid size before the map."""
        shape = [0, 0, 0]
        for axis, matrix in zip(self.permutation, self.matrices, strict=True):
            shape[axis] = matrix.shape[1]
        return (shape[0], shape[1], shape[2])

    @property
    def target_shape(self) -> Shape:  # type: ignore[override]
        """Grid size after the map."""
        a, b, c = (m.shape[0] for m in self.matrices)
        return (a, b, c)

    @property
    def is_identity(self) -> bool:
        """True if `forward` returns its argument unchanged."""
        return self.permutation == (0, 1, 2) and all(_is_identity(m) for m in self.matrices)

    @property
    def is_gather(self) -> bool:
        """True if values are only moved, never mixed: each output voxel is one input voxel (or 0)."""
        return all(_gather(m) is not None for m in self.matrices)

    def forward(self, x: Float[Tensor, "*lead i j k"]) -> Float[Tensor, "*lead i2 j2 k2"]:
        """Takes an image on the source grid to the target grid."""
        lead = x.ndim - 3
        y = x.permute(*range(lead), *(lead + axis for axis in self.permutation))
        for axis, matrix in enumerate(self.matrices):
            y = _apply(matrix, y, lead + axis)
        return y

    def adjoint(self, g: Float[Tensor, "*lead i2 j2 k2"]) -> Float[Tensor, "*lead i j k"]:
        """Takes a derivative with respect to the target grid's voxels to the source grid's voxels."""
        lead = g.ndim - 3
        for axis, matrix in enumerate(self.matrices):
            g = _apply_adjoint(matrix, g, lead + axis)
        inverse = np.argsort(self.permutation)
        return g.permute(*range(lead), *(lead + int(axis) for axis in inverse))

    def restrict(self, target: Box) -> tuple["AxisMap", Box]:
        """The map onto a box of the target grid, and the box of the source grid that alone it depends on."""
        start, stop, parts = [0, 0, 0], [0, 0, 0], []
        for axis, matrix, rows in zip(self.permutation, self.matrices, target.slices, strict=True):
            part = matrix[rows]
            low, high = _span(np.any(part != 0, axis=0))
            start[axis], stop[axis] = low, high
            parts.append(part[:, low:high])
        return AxisMap(_triple(parts), self.permutation), Box(
            (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])
        )

    def support(self, source: Box) -> Box:
        """The box of the target grid that a box of the source grid can influence."""
        spans = [
            _span(np.any(matrix[:, source.slices[axis]] != 0, axis=1))
            for axis, matrix in zip(self.permutation, self.matrices, strict=True)
        ]
        (a, d), (b, e), (c, f) = spans
        return Box((a, b, c), (d, e, f))


def reorientation(affine: Affine, shape: Shape, *, axes: str | None) -> AxisMap:
    """Flips and transposes that bring a grid as close as possible to the orientation `axes` (such as "RAS").

    Only whole axes are swapped or mirrored: an oblique grid stays oblique and nothing is interpolated. None leaves all
    axes as they are.
    """
    if axes is None:
        return AxisMap.identity(shape)
    along, directions = closest_axes(affine)
    wanted = [("RL", "AP", "SI").index(pair) for letter in axes for pair in ("RL", "AP", "SI") if letter in pair]
    permutation = [along.index(world) for world in wanted]
    signs = [directions[axis] for axis in permutation]
    matrices = []
    for letter, axis, sign in zip(axes, permutation, signs, strict=True):
        positive = (letter in "RAS") == (sign > 0)
        eye = np.eye(shape[axis])
        matrices.append(eye if positive else eye[::-1].copy())
    return AxisMap(_triple(matrices), (permutation[0], permutation[1], permutation[2]))


def resampling(source: int, *, zoom: float, target: int | None = None) -> AxisOperator:
    """Linear interpolation along one axis, (target, source): the grids share their outer edges.

    `zoom` is source spacing / target spacing. When shrinking, the kernel widens to the target voxel, so that no
    input voxel is skipped (anti-aliasing). Rows sum to 1: a constant image stays constant.
    """
    n = target if target is not None else max(1, round(source * zoom))
    centres = (np.arange(n) + 0.5) / zoom - 0.5
    width = max(1.0, 1.0 / zoom)
    distance = np.abs(np.clip(centres, 0, source - 1)[:, None] - np.arange(source)[None, :]) / width
    weights = np.clip(1.0 - distance, 0.0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def compose(first: AxisMap, second: AxisMap) -> AxisMap:
    """`second` after `first`, as one map."""
    matrices = [m @ first.matrices[axis] for m, axis in zip(second.matrices, second.permutation, strict=True)]
    a, b, c = (first.permutation[axis] for axis in second.permutation)
    return AxisMap(_triple(matrices), (a, b, c))


def inverse_interpolation(to_network: AxisMap, zooms: Sequence[float]) -> AxisMap:
    """The map that brings predictions back: same axes reversed, linear interpolation to the source lengths.

    `zooms` are per target axis as for `resampling`; axes with zoom 1 are the exact transpose (flips, crops).
    """
    matrices: list[AxisOperator] = [np.zeros((0, 0))] * 3
    for axis, matrix, zoom in zip(to_network.permutation, to_network.matrices, zooms, strict=True):
        if zoom == 1.0:
            matrices[axis] = matrix.T.copy()
            continue
        back = resampling(matrix.shape[0], zoom=1.0 / zoom, target=matrix.shape[1])
        flipped = matrix[0] @ np.arange(matrix.shape[1]) > matrix[-1] @ np.arange(matrix.shape[1])
        matrices[axis] = back[::-1].copy() if flipped else back
    inverse = np.argsort(to_network.permutation)
    return AxisMap(_triple(matrices), (int(inverse[0]), int(inverse[1]), int(inverse[2])))


def on_spacing(
    affine: Affine, shape: Shape, *, axes: str | None, spacing_mm: float | None, tolerance: float = 0.05
) -> tuple[AxisMap, AxisMap]:
    """Maps from a scan's grid to a network's grid and back: orientation first, then spacing.

    An axis whose voxel size is within `tolerance` (relative) of `spacing_mm` is left as it is; `spacing_mm=None` leaves
    all of them.
    """
    turned = reorientation(affine, shape, axes=axes)
    sizes = [voxel_sizes_mm(affine)[axis] for axis in turned.permutation]
    zooms = _zooms(sizes, spacing_mm, tolerance)
    scaled = AxisMap(
        _triple(
            [np.eye(n) if z == 1.0 else resampling(n, zoom=z) for n, z in zip(turned.target_shape, zooms, strict=True)]
        )
    )
    there = compose(turned, scaled)
    return there, inverse_interpolation(there, zooms)


def sizes_on_spacing(
    affine: Affine, shape: Shape, *, axes: str | None, spacing_mm: float | None, tolerance: float = 0.05
) -> Millimetres:
    """Voxel sizes in mm of the grid that `on_spacing` leads to."""
    turned = reorientation(affine, shape, axes=axes)
    sizes = [voxel_sizes_mm(affine)[axis] for axis in turned.permutation]
    return _triple([size / z for size, z in zip(sizes, _zooms(sizes, spacing_mm, tolerance), strict=True)])


def _zooms(sizes_mm: Sequence[float], spacing_mm: float | None, tolerance: float) -> list[float]:
    """Voxel size / wanted size per axis, 1 where it is near enough."""
    if spacing_mm is None:
        return [1.0] * len(sizes_mm)
    return [1.0 if abs(size / spacing_mm - 1.0) <= tolerance else size / spacing_mm for size in sizes_mm]


def _is_identity(matrix: np.ndarray) -> bool:
    return matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(matrix.shape[0]))


def _gather(matrix: np.ndarray) -> np.ndarray | None:
    """Source index per target row (-1 for an empty row) if the matrix only moves values, else None."""
    hits = matrix != 0
    if np.any(hits.sum(axis=1) > 1) or np.any(hits.sum(axis=0) > 1) or np.any(matrix[hits] != 1):
        return None
    return np.where(hits.any(axis=1), hits.argmax(axis=1), -1)


def _apply(matrix: np.ndarray, x: Tensor, axis: int) -> Tensor:
    if _is_identity(matrix):
        return x
    moves = _gather(matrix)
    if moves is None:
        weights = torch.as_tensor(matrix, dtype=x.dtype, device=x.device)
        return torch.movedim(torch.tensordot(x, weights, dims=([axis], [1])), -1, axis)  # type: ignore[arg-type]
    kept = np.flatnonzero(moves >= 0)
    taken = x.index_select(axis, torch.as_tensor(moves[kept].copy(), device=x.device))
    if len(kept) == len(moves):
        return taken
    shape = list(x.shape)
    shape[axis] = len(moves)
    return x.new_zeros(shape).index_copy(axis, torch.as_tensor(kept, device=x.device), taken)


def _apply_adjoint(matrix: np.ndarray, g: Tensor, axis: int) -> Tensor:
    return _apply(matrix.T, g, axis)


def _span(hit: np.ndarray) -> tuple[int, int]:
    where = np.flatnonzero(hit)
    return (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)


def _triple(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    a, b, c = values
    return a, b, c
