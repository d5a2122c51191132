"""Texture of healthy tissue: a draw of it inside a region, given what lies around.

A piece of the image from elsewhere (the donor) is corrected by kriging so that it continues what is known at the
region's border (Galerne, Leclaire and Xia, "Texture inpainting using efficient Gaussian conditional simulation",
SIAM Journal on Imaging Sciences 2017). Fields hold the image less its local mean, (channels, i, j, k).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float
from scipy.fft import irfftn, next_fast_len, rfftn

from lesionwise.types import MaskArray, Millimetres

_LAG_MM = 9.0
"""Distance beyond which the texture's values count as independent."""
_NEAREST = 64
"""Donors that are looked at: the nearest that fit."""
_ALIKE = 8
"""Those of them that agree best with what is known, of which one is drawn."""
_SPREAD_COUNTS = 4.0
"""Weight of a donor's spread beside its pattern: a spread off by a factor e counts as much as this many squared SD a voxel."""
_DONORS = 6
"""Donors that are put together where none fits as a whole."""
_NEARLY = 0.95
"""Share of the best cover from which a donor that does not fit as a whole may be drawn too, so that fills differ."""
_PAIRS = 64
"""Pairs of healthy voxels below which the covariance at a lag is taken for 0."""
_NUGGET = 1e-3
"""Share of the variance that every voxel has to itself, so that the equations of kriging are well posed."""
_STEPS = 25
"""Conjugate-gradient steps; what is left by then is far below the noise of a scan."""


def continued_texture(
    residual: Float[np.ndarray, "channels i j k"],
    part: MaskArray,
    known: MaskArray,
    healthy: MaskArray,
    *,
    rng: np.random.Generator,
    voxel_mm: Millimetres,
) -> Float[np.ndarray, "channels voxels"]:
    """A draw of the texture in `part`, given the texture in `known`.

    `residual` is the image less its local mean (channels, i, j, k), trusted in `healthy`; `voxel_mm` the voxel size.
    Returns (channels, voxels of `part`). Raises nothing: without any donor the texture is noise of the same spectrum.
    """
    drawn = _donated(residual, part | known, known, healthy, rng=rng, voxel_mm=voxel_mm)
    if not known.any():
        return drawn[:, part]
    found = np.argwhere(part | known)
    box = tuple(slice(low, high) for low, high in zip(found.min(axis=0), found.max(axis=0) + 1, strict=True))
    here = (slice(None), *box)
    missing = np.where(known[box], residual[here] - drawn[here], 0.0)
    law = _Covariance.of(residual, healthy, part[box].shape, voxel_mm=voxel_mm)
    return (drawn[here] + law.continued(missing, known[box]))[:, part[box]]


def _donated(
    residual: Float[np.ndarray, "channels i j k"],
    wanted: MaskArray,
    known: MaskArray,
    healthy: MaskArray,
    *,
    rng: np.random.Generator,
    voxel_mm: Millimetres,
) -> Float[np.ndarray, "channels i j k"]:
    """Texture for the voxels in `wanted`, taken together from where it is healthy; 0 elsewhere.

    Where nothing fits as a whole several donors are put together, and what is left takes noise of the same spectrum.
    """
    texture, left = np.zeros_like(residual), wanted.copy()
    field = healthy.astype(np.float32)
    for _ in range(_DONORS):
        voxels = np.argwhere(left)
        if not len(voxels):
            return texture
        low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
        shape = left[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
        covered = scipy.signal.fftconvolve(field, shape[::-1, ::-1, ::-1], mode="valid").round()
        if covered.max() < 1:
            break
        whole = covered.max() >= len(voxels)
        shifts = np.argwhere(covered >= covered.max() * (1.0 if whole else _NEARLY)) - low
        near = shifts[np.argsort(np.linalg.norm(shifts * np.asarray(voxel_mm), axis=1), kind="stable")[:_NEAREST]]
        at = voxels[known[tuple(voxels.T)]]
        wrong = [_disagreement(residual[(slice(None), *(at + d).T)], residual[(slice(None), *at.T)]) for d in near]
        alike = near[np.argsort(wrong, kind="stable")[:_ALIKE]]
        donors = voxels + alike[rng.integers(len(alike))]
        fits = healthy[tuple(donors.T)]
        texture[(slice(None), *voxels[fits].T)] = residual[(slice(None), *donors[fits].T)]
        left[tuple(voxels[fits].T)] = False
    if left.any():
        texture[:, left] = _texture(residual, healthy, rng=rng)[:, left]
    return texture


def _disagreement(donor: Float[np.ndarray, "channels n"], here: Float[np.ndarray, "channels n"]) -> float:
    """How badly a donor fits what is known, in pattern and in spread.

    Plain squared differences would prefer donors in which little happens.
    """
    if not here.shape[1]:
        return 0.0
    spreads = [np.maximum(x.std(axis=1, keepdims=True), 1e-9) for x in (donor, here)]
    pattern = ((donor / spreads[0] - here / spreads[1]) ** 2).sum()
    return float(pattern + _SPREAD_COUNTS * here.shape[1] * (np.log(spreads[0] / spreads[1]) ** 2).sum())


@dataclass(frozen=True, eq=False)
class _Covariance:
    """Covariance of a stationary texture over space and channels, as its spectrum on a padded periodic grid."""

    spectrum: np.ndarray
    grid: tuple[int, ...]
    variance: np.ndarray

    @classmethod
    def of(
        cls, residual: np.ndarray, healthy: MaskArray, shape: Sequence[int], *, voxel_mm: Millimetres
    ) -> "_Covariance":
        """From the pairs of healthy voxels at each lag up to `_LAG_MM`, for a region of `shape`."""
        reach = [int(_LAG_MM / size) for size in voxel_mm]
        wide = tuple(next_fast_len(n + r, real=True) for n, r in zip(healthy.shape, reach, strict=True))
        grid = tuple(next_fast_len(n + r, real=True) for n, r in zip(shape, reach, strict=True))
        counted = rfftn(healthy.astype(np.float64), wide)
        pairs = irfftn(np.abs(counted) ** 2, wide).round()
        parts = [rfftn(np.where(healthy, channel, 0.0), wide) for channel in residual]
        lags = [np.arange(-min(r, n - 1), min(r, n - 1) + 1) for r, n in zip(reach, shape, strict=True)]
        far = np.sqrt(
            sum((lag * size) ** 2 for lag, size in zip(np.meshgrid(*lags, indexing="ij"), voxel_mm, strict=True))
        )
        take, put = np.ix_(*lags), np.ix_(*lags)
        number = len(residual)
        spectrum = np.zeros((number, number, *grid[:-1], grid[-1] // 2 + 1), dtype=complex)
        variance = np.zeros(number)
        for a in range(number):
            for b in range(number):
                products = irfftn(np.conj(parts[a]) * parts[b], wide)[take]
                enough = (pairs[take] >= _PAIRS) & (far < _LAG_MM)
                values = np.zeros(grid)
                values[put] = np.where(enough, products / np.maximum(pairs[take], 1.0), 0.0)
                spectrum[a, b] = rfftn(values)
                if a == b:
                    variance[a] = values[0, 0, 0]
        return cls(_positive(spectrum), grid, variance)

    def applied(self, x: np.ndarray) -> np.ndarray:
        """The covariance times a field (channels, i, j, k)."""
        moved = np.stack([rfftn(channel, self.grid) for channel in x])
        summed = np.einsum("abijk,bijk->aijk", self.spectrum, moved)
        crop = tuple(slice(0, n) for n in x.shape[1:])
        return np.stack([irfftn(channel, self.grid)[crop] for channel in summed])

    def continued(self, values: np.ndarray, known: MaskArray) -> np.ndarray:
        """The expected field given its `values` where it is known (kriging), by conjugate gradients."""
        own = _NUGGET * self.variance[:, None, None, None]
        weights, rest = np.zeros_like(values), np.where(known, values, 0.0)
        way, size = rest.copy(), float((rest**2).sum())
        least = 1e-6 * size
        for _ in range(_STEPS):
            if size <= least:
                break
            image = np.where(known, self.applied(way) + own * way, 0.0)
            step = size / max(float((way * image).sum()), 1e-300)
            weights, rest = weights + step * way, rest - step * image
            before, size = size, float((rest**2).sum())
            way = rest + size / before * way
        return self.applied(weights)


def _positive(spectrum: np.ndarray) -> np.ndarray:
    """The nearest spectrum that a covariance can have: Hermitian between channels, without negative powers."""
    moved = np.moveaxis(spectrum, (0, 1), (-2, -1))
    power, turn = np.linalg.eigh((moved + np.conj(np.swapaxes(moved, -1, -2))) / 2)
    kept = (turn * np.maximum(power, 0.0)[..., None, :]) @ np.conj(np.swapaxes(turn, -1, -2))
    return np.moveaxis(kept, (-2, -1), (0, 1))


def _texture(
    residual: Float[np.ndarray, "channels i j k"], healthy: MaskArray, *, rng: np.random.Generator
) -> Float[np.ndarray, "channels i j k"]:
    """Noise with the spectrum, spread and cross-channel agreement of the healthy residual.

    Random phases, the same for all channels, are added to its Fourier transform (Galerne 2011, random-phase noise).
    """
    known = np.where(healthy, residual - residual[:, healthy].mean(axis=1)[:, None, None, None], 0.0)
    spread = residual[:, healthy].std(axis=1)
    phase = np.fft.rfftn(rng.standard_normal(healthy.shape))
    phase /= np.abs(phase) + 1e-300
    noise = np.stack([np.fft.irfftn(np.fft.rfftn(channel) * phase, s=healthy.shape) for channel in known])
    now = noise.std(axis=(1, 2, 3))
    return noise * (spread / np.where(now > 0, now, 1.0))[:, None, None, None]
