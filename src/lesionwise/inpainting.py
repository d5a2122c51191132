"""Healthy tissue in place of a lesion: what the scan might have looked like without it.

Inside the mask the image becomes u = m + s t, in all channels at once:

- m, the local mean of healthy tissue: a Gaussian-weighted average of the healthy voxels around, and how much tissue of the
  same depth in white matter differs from it (at the edge voxels are shared with other tissue); s, the spread at that depth;
- t, texture, drawn given what lies around: a piece of the healthy residual (image - m) / s from elsewhere in the scan (the
  donor, a random one of the nearest that fit), corrected so that it continues what is known at the mask's border: by
  the kriging of the difference there, k = C_uk C_kk^-1 (known - donor), with C the covariance of the healthy residual over
  space and channels: for a Gaussian texture m + s (donor + k) is an exact draw given its surroundings (Galerne 2017). Voxels at
  the border that lie more than three standard deviations from healthy tissue are another tissue's and are not continued:
  beside a ventricle the fill ends in an edge, as tissue does, and does not run into the fluid.

Without a generator of random numbers t is smooth: a seam h that fades inwards over `seam_mm`, the solution of
h - seam_mm^2 laplace(h) = 0 with h = image - m on the voxels around, limited to three standard deviations.

Without healthy tissue to average, m = 0 and h is the plain harmonic fill (laplace(h) = 0), which meets the border
everywhere but carries whatever lies there, fluid included, inwards.

Voxels outside the mask keep their values exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float
from scipy import ndimage

from lesionwise.geometry.box import Box
from lesionwise.texture import continued_texture
from lesionwise.types import ImageArray, MaskArray, Millimetres, Shape

_ENOUGH_VOX = 64
"""Healthy voxels below which no local mean or texture is estimated."""

_LIMIT_SD = 3.0
"""Steps at the border beyond this many standard deviations of healthy tissue are edges of tissue, and stay."""

_SEARCH_MM = 24.0
"""How far around a mask donors of texture are looked for, and its covariance is estimated."""
_RING_VOX = 2
"""Width of the border that the texture continues."""
_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Depths in white matter, in edges of the smallest voxel side, at which healthy tissue is described; linear in between."""
_ENOUGH_AT_DEPTH = 20
"""Healthy voxels, by weight, below which a depth is not described by its own."""
_SOFTER = 0.7
"""Width, in the same edges, of the Gaussian that takes the steps of a voxelwise depth out of the mean."""


@dataclass(frozen=True)
class _Scale:
    """Lengths in mm on one grid."""

    voxel_mm: Millimetres
    seam_mm: float
    reach_mm: float

    @property
    def sigma_vox(self) -> list[float]:
        return [self.reach_mm / size for size in self.voxel_mm]


def inpaint(
    image: ImageArray,
    mask: MaskArray,
    *,
    voxel_sizes_mm: Millimetres,
    healthy: MaskArray | None = None,
    rng: np.random.Generator | None = None,
    seam_mm: float = 2.5,
    reach_mm: float = 4.0,
    grow_vox: int = 0,
) -> ImageArray:
    """Replaces the voxels of `mask` by healthy tissue and returns a new image (channels, i, j, k).

    `healthy` (usually white matter without any lesion) gives the local mean and the texture, averaged with a Gaussian
    of `reach_mm`; voxels of the mask in it are ignored. Without it, or with fewer than 64 healthy voxels near, the fill
    is harmonic. `rng` draws the texture; without it none is added and the result is smooth. `grow_vox` enlarges the
    mask first, to take a lesion's blurred rim along. Each separate part of the mask is filled on its own. An empty mask
    returns a copy.

    >>> import numpy as np
    >>> flat = np.full((1, 9, 9, 9), 2.0, dtype=np.float32)
    >>> hole = np.zeros((9, 9, 9), dtype=bool); hole[3:6, 3:6, 3:6] = True
    >>> bool(np.allclose(inpaint(np.where(hole, 50, flat).astype(np.float32), hole, voxel_sizes_mm=(1, 1, 2)), 2.0))
    True
    """
    scale = _Scale(voxel_sizes_mm, float(seam_mm), float(reach_mm))
    if grow_vox:
        mask = ndimage.binary_dilation(mask, iterations=grow_vox)
    filled = image.copy()
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    shape: Shape = (mask.shape[0], mask.shape[1], mask.shape[2])
    reached = 3.0 * reach_mm if rng is None or healthy is None else max(3.0 * reach_mm, _SEARCH_MM)
    margin = int(np.ceil(reached / min(scale.voxel_mm)))
    for number, found in enumerate(ndimage.find_objects(labels), start=1):
        start, stop = (tuple(getattr(s, end) for s in found) for end in ("start", "stop"))
        corners = np.array([start, np.subtract(stop, 1)])
        box = Box.around(corners, margin=margin, shape=shape)
        part = labels[box.slices] == number
        around = None if healthy is None else healthy[box.slices] & ~mask[box.slices]
        inside = (slice(None), *box.slices)
        filled[inside][:, part] = _fill(image[inside], part, healthy=around, rng=rng, scale=scale)
    return filled


def local_mean(
    values: Float[np.ndarray, "channels i j k"], where: MaskArray, *, sigma_vox: Sequence[float]
) -> Float[np.ndarray, "channels i j k"]:
    """Gaussian-weighted mean of the voxels in `where`, at every voxel; far from any of them their plain mean.

    `sigma_vox` is the width of the Gaussian along each axis in voxels. Raises nothing: an empty `where` gives 0.
    """
    if not where.any():
        return np.zeros_like(values)
    plain = values[:, where].mean(axis=1)
    weight = ndimage.gaussian_filter(where.astype(np.float64), sigma_vox)
    # A faint pull to the plain mean decides where no healthy voxel is within reach, and is lost elsewhere.
    pull = 1e-6
    sums = [ndimage.gaussian_filter(np.where(where, channel, 0.0), sigma_vox) for channel in values]
    return np.stack([(s + pull * p) / (weight + pull) for s, p in zip(sums, plain, strict=True)])


def _fill(
    image: ImageArray, part: MaskArray, *, healthy: MaskArray | None, rng: np.random.Generator | None, scale: _Scale
) -> Float[np.ndarray, "channels voxels"]:
    """New values of the voxels in `part`."""
    values = image.astype(np.float64)
    if healthy is None or int(healthy.sum()) < _ENOUGH_VOX:
        return _seam(values, part, voxel_mm=scale.voxel_mm, seam_mm=np.inf)
    base = local_mean(values, healthy, sigma_vox=scale.sigma_vox)
    residual = values - base
    if rng is not None:
        mean, spread = _by_depth(residual, healthy, part, scale.voxel_mm)
        texture = (residual - mean) / spread
        is_tissue = np.all(np.abs(texture) <= _LIMIT_SD, axis=0)
        known = ndimage.binary_dilation(part, iterations=_RING_VOX) & ~part & is_tissue
        found = continued_texture(texture, part, known, healthy, rng=rng, voxel_mm=scale.voxel_mm)
        return (base + mean)[:, part] + spread[:, part] * found
    limit = _LIMIT_SD * residual[:, healthy].std(axis=1)[:, None, None, None]
    missing = np.clip(residual, -limit, limit)
    return base[:, part] + _seam(missing, part, voxel_mm=scale.voxel_mm, seam_mm=scale.seam_mm)


def _by_depth(
    residual: Float[np.ndarray, "channels i j k"], healthy: MaskArray, part: MaskArray, voxel_mm: Millimetres
) -> tuple[Float[np.ndarray, "channels i j k"], Float[np.ndarray, "channels i j k"]]:
    """Mean and standard deviation of the healthy residual at every voxel's depth in white matter.

    `part`, and holes such as other lesions, count as white matter.
    """
    finest = min(voxel_mm)
    white = np.pad(ndimage.binary_fill_holes(healthy | part), 1, constant_values=True)
    inner = (slice(1, -1),) * 3
    if white.all():  # nothing to be deep in
        depth = np.full(part.shape, _DEPTHS[-1])
    else:
        depth = ndimage.distance_transform_edt(white, sampling=voxel_mm)[inner] / finest
    at = np.minimum(depth[healthy], _DEPTHS[-1])
    weights = np.maximum(1.0 - np.abs(at[:, None] - np.array(_DEPTHS)), 0.0)
    number = weights.sum(axis=0)
    told = number >= _ENOUGH_AT_DEPTH
    mean = np.empty_like(residual)
    spread = np.empty_like(residual)
    softer = [_SOFTER * finest / size for size in voxel_mm]
    for channel, own in enumerate(residual):
        values = own[healthy]
        overall = float(values.std()) or 1.0
        mean[channel], spread[channel] = values.mean(), overall
        if told.sum() > 1:
            middle = (weights * values[:, None]).sum(axis=0)[told] / number[told]
            squares = (weights * values[:, None] ** 2).sum(axis=0)[told] / number[told]
            depths, widths = np.array(_DEPTHS)[told], np.sqrt(np.maximum(squares - middle**2, (1e-3 * overall) ** 2))
            mean[channel] = ndimage.gaussian_filter(np.interp(depth, depths, middle), softer)
            spread[channel] = np.interp(depth, depths, widths)
    return mean, spread


def _seam(
    residual: Float[np.ndarray, "channels i j k"], part: MaskArray, *, voxel_mm: Millimetres, seam_mm: float
) -> Float[np.ndarray, "channels voxels"]:
    """Solution of h / seam^2 - laplace(h) = 0 in `part` with h = residual around it; harmonic for an infinite seam.

    The grid's own edge conducts nothing (zero slope). A part without any voxel around it gets 0.
    """
    n = int(part.sum())
    number = np.full(part.shape, -1, dtype=np.int64)
    number[part] = np.arange(n)
    diagonal = np.full(n, seam_mm**-2)
    right = np.zeros((len(residual), n))
    rows, columns, weights = [], [], []
    for axis, size in enumerate(voxel_mm):
        weight = size**-2
        for step in (-1, 1):
            here, there = _neighbours(part.shape, axis, step)
            inside = part[here]
            mine, other = number[here][inside], number[there][inside]
            diagonal[mine] += weight
            known = other < 0
            right[:, mine[known]] += weight * residual[(slice(None), *there)][:, inside][:, known]
            rows.append(mine[~known])
            columns.append(other[~known])
            weights.append(np.full(int((~known).sum()), -weight))
    if not right.any():
        return right
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    system = scipy.sparse.csr_matrix(entries, shape=(n, n)) + scipy.sparse.diags(diagonal)
    jacobi = scipy.sparse.diags(1.0 / diagonal)
    return np.stack([scipy.sparse.linalg.cg(system, b, rtol=1e-8, maxiter=4000, M=jacobi)[0] for b in right])


def _neighbours(shape: Sequence[int], axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Index of all voxels that have a neighbour one `step` along `axis`, and the index of those neighbours."""
    here, there = [slice(None)] * 3, [slice(None)] * 3
    low, high = slice(0, shape[axis] - 1), slice(1, shape[axis])
    here[axis], there[axis] = (low, high) if step > 0 else (high, low)
    return tuple(here), tuple(there)
