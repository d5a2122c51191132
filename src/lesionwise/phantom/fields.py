"""Smooth random fields, cheap at any size: cubic B-splines on a coarse lattice of normal deviates."""

import numpy as np

from lesionwise.types import Shape

_SPLINE_SD = 0.4794**1.5
"""Standard deviation of a cubic B-spline field with unit-normal coefficients (mean over the cell, three axes)."""


def smooth_field(rng: np.random.Generator, shape: Shape, *, spacing_vox: float | int | tuple[float, ...]) -> np.ndarray:
    """A random field (i, j, k), float32, of mean 0 and standard deviation about 1.

    `spacing_vox` is the distance of the lattice points, one number or one per axis: structures are about twice as wide.
    """
    spacings = (spacing_vox,) * 3 if isinstance(spacing_vox, (int, float)) else spacing_vox
    bases = [_basis(n, max(float(s), 1.0)) for n, s in zip(shape, spacings, strict=True)]
    field = rng.standard_normal([b.shape[1] for b in bases], dtype=np.float32)
    for axis, basis in enumerate(bases):
        field = apply_along(basis, field, axis)
    return field / np.float32(_SPLINE_SD)


def white_noise(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Independent normal deviates, float32."""
    return rng.standard_normal(shape, dtype=np.float32)


def apply_along(matrix: np.ndarray, field: np.ndarray, axis: int) -> np.ndarray:
    """Multiplies one axis of an array by a matrix (new length, old length)."""
    return np.moveaxis(np.tensordot(matrix, field, axes=([1], [axis])), 0, axis)


def blur(field: np.ndarray, sigmas_vox: tuple[float, float, float]) -> np.ndarray:
    """Gaussian blur, one width per axis, edges repeated."""
    for axis, sigma in enumerate(sigmas_vox):
        if sigma > 0.05:
            field = apply_along(_gaussian(field.shape[axis], sigma), field, axis)
    return np.ascontiguousarray(field, dtype=np.float32)


def sheets(rng: np.random.Generator, shape: Shape, *, spacing_vox: float | int) -> np.ndarray:
    """Distance in voxels, float32, to the nearest of a family of folded sheets: the zeros of a smooth field.

    First-order: |n| / |grad n|. Sulci are such sheets.
    """
    field = smooth_field(rng, shape, spacing_vox=spacing_vox)
    slope = np.zeros_like(field)
    for axis in range(3):
        slope += np.gradient(field, axis=axis) ** 2
    return np.abs(field) / np.sqrt(slope + (0.15 / spacing_vox) ** 2)


def _basis(length: int, spacing: float) -> np.ndarray:
    """Values of the cubic B-splines (length, lattice points) at voxels 0..length-1."""
    position = np.arange(length)[:, None] / spacing
    t = np.abs(position - (np.arange(int(np.ceil(length / spacing)) + 3)[None, :] - 1))
    inner = 2 / 3 - t**2 + t**3 / 2
    outer = (2 - t) ** 3 / 6
    return np.where(t < 1, inner, np.where(t < 2, outer, 0.0)).astype(np.float32)


def _gaussian(length: int, sigma: float) -> np.ndarray:
    """Band matrix of a Gaussian blur; rows add up to 1."""
    x = np.arange(length)
    weight = np.exp(-0.5 * ((x[:, None] - x[None, :]) / sigma) ** 2)
    weight[weight < 1e-4] = 0.0
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
