"""Channels and masks brought onto another channel's grid, once, by the motion that registration found."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.volume import Volume
from lesionwise.types import Affine, MaskArray, ScalarArray, Shape

SourceMask = Bool[np.ndarray, "i0 j0 k0"]
"""A mask on the grid that it comes from."""

THICKER = 1.5
"""A voxel this many times longer than those it is sampled from averages several of them."""


def onto_grid(moving: Volume, matrix: Affine, *, shape: Shape, affine: Affine) -> ScalarArray:
    """The moving channel on a grid, by cubic splines; 0 where it does not reach.

    `matrix` takes the grid's world (RAS mm) to the moving channel's. Along an axis whose voxels are longer than the
    moving channel's the image is sampled several times within each voxel and averaged, as a thick slice does. Values
    stay within those of the moving channel: splines overshoot beside bright fat.
    """
    data = moving.data[0]
    finest = min(moving.voxel_sizes_mm)
    counts = [max(1, int(size / (THICKER * finest) + 0.5)) for size in voxel_sizes_mm(affine)]
    fine_shape = tuple(n * count for n, count in zip(shape, counts, strict=True))
    to_voxel = np.linalg.inv(moving.affine) @ matrix @ _refined(affine, counts)
    coefficients = ndimage.spline_filter(data, order=3, output=np.float32, mode="mirror")
    fine = ndimage.affine_transform(
        coefficients, to_voxel[:3, :3], to_voxel[:3, 3], output_shape=fine_shape, order=3, prefilter=False, cval=0.0
    )
    blocks = fine.reshape([part for pair in zip(shape, counts, strict=True) for part in pair])
    return np.clip(blocks.mean(axis=(1, 3, 5)), data.min(), data.max()).astype(np.float32)


def mask_onto_grid(mask: SourceMask, mask_affine: Affine, matrix: Affine, *, shape: Shape, affine: Affine) -> MaskArray:
    """A mask on another grid: each voxel takes the nearest one's value, False where the mask does not reach."""
    to_voxel = np.linalg.inv(mask_affine) @ matrix @ affine
    moved = ndimage.affine_transform(
        mask.astype(np.uint8), to_voxel[:3, :3], to_voxel[:3, 3], output_shape=shape, order=0, mode="constant", cval=0
    )
    return moved > 0


def _refined(affine: Affine, counts: list[int]) -> Affine:
    """Affine of the grid whose voxels are the given one's, cut into `counts` parts along each axis."""
    fine = affine.copy()
    fine[:3, :3] = affine[:3, :3] / counts
    first = (1.0 / np.asarray(counts) - 1.0) / 2.0
    fine[:3, 3] = affine[:3, :3] @ first + affine[:3, 3]
    return fine
