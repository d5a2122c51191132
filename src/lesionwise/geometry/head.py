"""Which voxels are inside the head of a skull-stripped scan.

Real images are not clean: rings and negative values at the brain's edge, brains cut with more or less rim, noise
outside. Intensity statistics taken over "non-zero voxels" are spoiled by all of these, so the head is found by shape.
"""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from lesionwise.errors import InputError
from lesionwise.geometry.volume import Volume
from lesionwise.types import MaskArray

DARK = 0.55
"""Mean over channels of intensity / typical tissue intensity (at most 1 each) below which a voxel is fluid, rim, ring
or noise; such voxels belong to the head only where tissue closes around them (ventricles, sulci)."""

LARGEST_BRAIN_ML = 2300.0
"""Intracranial volumes of adults stay below about 2000 ml; a head with scalp and skull has 3000 and more."""

SIGNAL, BONE = 0.08, 0.35
"""Fractions of typical tissue intensity above which a voxel belongs to the outline, and below which it is dark."""

GAP_MM = (7.0, 15.0)
MOST_DARK = 0.15
"""Where bone is looked for, and the largest fraction of dark voxels there that a brain has (docs/inputs.md)."""

MOST_BRIGHT = 0.2
"""Largest fraction of a brain's edge that is bright in every channel (docs/inputs.md)."""

ALIKE = 0.9
"""Dice of two channels' signal below which their heads are said to differ."""

_SLICES = 16
_COARSE_MM = 2.0
_LEAST_HALF_WIDTH_MM = 35.0


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
    (own,) = ndimage.find_objects(solid.astype(np.int8))  # a closing stays within the box that holds what is closed
    pad = np.ceil(4.0 / sizes).astype(int) + 1
    padded = np.pad(solid[own], [(p, p) for p in pad])
    # A closing with a ball: its distances run between voxel centres, as a structuring element's do.
    near = ndimage.distance_transform_edt(~padded, sampling=sizes) <= 4.0
    closed = ndimage.distance_transform_edt(near, sampling=sizes) > 4.0
    solid[own] |= closed[tuple(slice(p, -p) for p in pad)]
    return ndimage.binary_fill_holes(solid) & np.any(image.data != 0, axis=0)


def check_skull_stripped(head: MaskArray, image: Volume, *, what: str) -> None:
    """Raises InputError, naming --brain-mask and --prepare, if the head has its skull on.

    Either it is too large to be a brain, or dark bone lies between its outline and the brain (`dark_gap`).
    """
    volume_ml = float(head.sum()) * image.voxel_volume_mm3 / 1000
    help_ = "strip the skull, give the brain's mask with --brain-mask, or let --prepare extract the brain."
    if volume_ml > LARGEST_BRAIN_ML:
        raise InputError(
            f"Expected a skull-stripped scan (brains are below {LARGEST_BRAIN_ML:.0f} ml), found {volume_ml:.0f} ml of "
            f"head in {what}: {help_}"
        )
    gap = dark_gap(image)
    if gap > MOST_DARK:
        raise InputError(
            f"Expected a skull-stripped scan, found a skull in {what} ({100 * gap:.0f} % of what lies {GAP_MM[0]:.0f} to "
            f"{GAP_MM[1]:.0f} mm below the outline is as dark as bone; in brains it is below 10 %): {help_}"
        )


def dark_gap(image: Volume) -> float:
    """Fraction of dark voxels 7 to 15 mm below the outline of what has signal, mean over channels, 0 to 1.

    Under a scalp lie bone and fluid, dark in every sequence; under the edge of an extracted brain lies brain. Looked at in
    slices across the longest voxel edge (else axial ones) where the outline is large; 0 where no slice is as large as a
    head, so that there is nothing to tell.
    """
    sizes = np.asarray(image.voxel_sizes_mm)
    upward = int(np.argmax(np.abs(image.affine[2, :3]) / sizes))
    across = int(np.argmax(sizes)) if sizes.max() > 1.5 * sizes.min() else upward
    plane = [float(size) for axis, size in enumerate(sizes) if axis != across]
    steps = [max(1, int(_COARSE_MM / size)) for size in plane]
    plane_mm = [size * step for size, step in zip(plane, steps, strict=True)]
    fractions = []
    for data, name in zip(image.data, image.channels, strict=True):
        slices = np.moveaxis(data, across, 0)[:, :: steps[0], :: steps[1]]
        relative = slices / _tissue_level(data, name)
        signal = relative > SIGNAL
        areas = signal.sum(axis=(1, 2))
        large = np.flatnonzero(areas > 0.5 * areas.max())
        dark = total = 0
        for number in large[:: max(1, len(large) // _SLICES)]:
            outline = _largest_component(ndimage.binary_fill_holes(signal[number]))
            depth = ndimage.distance_transform_edt(np.pad(outline, 1), sampling=plane_mm)[1:-1, 1:-1]
            if depth.max() < _LEAST_HALF_WIDTH_MM:
                continue
            below = (depth > GAP_MM[0]) & (depth <= GAP_MM[1])
            total += int(below.sum())
            dark += int((relative[number][below] < BONE).sum())
        fractions.append(dark / total if total else 0.0)
    return float(np.mean(fractions))


def head_notes(head: MaskArray, image: Volume, *, given: bool) -> list[str]:
    """Sentences about a head that should not be trusted blindly: channels cut differently, a mask that cuts the brain.

    `given` says that the head is a mask that someone gave, not found from the images.
    """
    notes = []
    signals = signal_of(image)
    for name, signal in zip(image.channels[1:], signals[1:], strict=True):
        first, other, both = int(signals[0].sum()), int(signal.sum()), int((signals[0] & signal).sum())
        if 2 * both < ALIKE * (first + other):
            notes.append(
                f"The heads of {image.channels[0]} and {name} differ: {first} and {other} voxels with signal, {both} in both; "
                "one is stripped more loosely, and where only one has signal the network sees no such thing in training."
            )
    mask = head if given else np.logical_or.reduce(signals)
    edge = bright_edge(mask, image)
    if edge > MOST_BRIGHT:
        whose = "The given brain mask" if given else "The brain extraction"
        notes.append(
            f"{whose} seems to cut into the brain: {100 * edge:.0f} % of its edge is as bright as tissue in every channel."
        )
    return notes


def signal_of(image: Volume) -> list[MaskArray]:
    """Where each channel has signal: above 2 % of typical tissue."""
    return [
        np.abs(data) > 0.02 * _tissue_level(data, name) for data, name in zip(image.data, image.channels, strict=True)
    ]


def bright_edge(mask: MaskArray, image: Volume) -> float:
    """Fraction of a mask's outermost voxels that are as bright as tissue in every channel, 0 to 1.

    An extracted brain ends in fluid and membranes, dark in FLAIR or in T1w; a mask that cuts the brain ends in tissue.
    """
    edge = mask & ~ndimage.binary_erosion(mask, border_value=1)
    if not edge.any():
        return 0.0
    bright = np.ones(int(edge.sum()), dtype=bool)
    for data, name in zip(image.data, image.channels, strict=True):
        bright &= data[edge] > 0.8 * _tissue_level(data, name)
    return float(bright.mean())


def _tissue_level(channel: np.ndarray, name: str) -> float:
    """Typical intensity of tissue: the median of the brighter half of what is above zero."""
    positive = channel[channel > 0]
    if positive.size == 0:
        raise InputError(f"Expected a scan with positive intensities, found none in the channel {name}.")
    return float(np.median(positive[positive >= positive.mean()]))


def _largest_component(mask: Bool[np.ndarray, "*axes"]) -> Bool[np.ndarray, "*axes"]:
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def _ball(radius_mm: float, sizes_mm: np.ndarray) -> MaskArray:
    reach = np.maximum(np.floor(radius_mm / sizes_mm + 1e-6).astype(int), 0)
    axes = np.meshgrid(*[np.arange(-r, r + 1) * s for r, s in zip(reach, sizes_mm, strict=True)], indexing="ij")
    return sum(axis**2 for axis in axes) <= radius_mm**2 + 1e-6  # type: ignore[return-value]
