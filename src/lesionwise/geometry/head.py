"""Which voxels are inside the head of a skull-stripped scan.

Real images are not clean: rings and negative values at the brain's edge, brains cut with more or less rim, noise
outside. Intensity statistics taken over "non-zero voxels" are spoiled by all of these, so the head is found by shape.
"""

import numpy as np
from scipy import ndimage

from lesionwise.errors import InputError
from lesionwise.geometry.volume import Volume
from lesionwise.types import MaskArray

DARK = 0.55
"""Mean over channels of intensity / typical tissue intensity (at most 1 each) below which a voxel is fluid, rim, ring
or noise; such voxels belong to the head only where tissue closes around them (ventricles, sulci)."""

LARGEST_BRAIN_ML = 2300.0
"""Intracranial volumes of adults stay below about 2000 ml; a head with scalp and skull has 3000 and more."""


def find_head(image: Volume) -> MaskArray:
    """The head of a skull-stripped scan: one solid component without holes.

    A voxel is tissue where the channels together are clearly above fluid and background. Thin rings and stray noise are
    opened away, the largest component is kept, gaps of 4 mm (sulci) are closed and holes (ventricles) filled. A rim of
    dark fluid that one extraction tool leaves and another cuts does not count, so that the z-score does not depend on it.
    Raises InputError if there is no signal.
    """
    relative = [
        np.minimum(data / _tissue_level(data, name), 1.0) for data, name in zip(image.data, image.channels, strict=True)
    ]
    bright = np.mean(relative, axis=0) > DARK
    sizes = np.asarray(image.voxel_sizes_mm)
    solid = ndimage.binary_opening(bright, _ball(2.0, sizes))
    solid = solid if solid.any() else bright
    solid = _largest_component(solid)
    pad = np.ceil(4.0 / sizes).astype(int) + 1
    padded = np.pad(solid, [(p, p) for p in pad])
    # A closing with a ball: its distances run between voxel centres, as a structuring element's do.
    near = ndimage.distance_transform_edt(~padded, sampling=sizes) <= 4.0
    closed = ndimage.distance_transform_edt(near, sampling=sizes) > 4.0
    inner = (closed | padded)[tuple(slice(p, -p) for p in pad)]
    return ndimage.binary_fill_holes(inner) & np.any(image.data != 0, axis=0)


def check_skull_stripped(head: MaskArray, image: Volume, *, what: str) -> None:
    """Raises InputError, naming --brain-mask, if the head is too large to be a brain."""
    volume_ml = float(head.sum()) * image.voxel_volume_mm3 / 1000
    if volume_ml > LARGEST_BRAIN_ML:
        raise InputError(
            f"Expected a skull-stripped scan (brains are below {LARGEST_BRAIN_ML:.0f} ml), found {volume_ml:.0f} ml of "
            f"head in {what}: strip the skull, or give the brain's mask with --brain-mask."
        )


def _tissue_level(channel: np.ndarray, name: str) -> float:
    """Typical intensity of tissue: the median of the brighter half of what is above zero."""
    positive = channel[channel > 0]
    if positive.size == 0:
        raise InputError(f"Expected a scan with positive intensities, found none in the channel {name}.")
    return float(np.median(positive[positive >= positive.mean()]))


def _largest_component(mask: MaskArray) -> MaskArray:
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def _ball(radius_mm: float, sizes_mm: np.ndarray) -> MaskArray:
    reach = np.maximum(np.floor(radius_mm / sizes_mm + 1e-6).astype(int), 0)
    axes = np.meshgrid(*[np.arange(-r, r + 1) * s for r, s in zip(reach, sizes_mm, strict=True)], indexing="ij")
    return sum(axis**2 for axis in axes) <= radius_mm**2 + 1e-6  # type: ignore[return-value]
