"""What kind of image a channel is: brain alone or a whole head, and where its head is."""

import numpy as np
from scipy import ndimage

from lesionwise.errors import InputError
from lesionwise.geometry.head import LARGEST_BRAIN_ML, MOST_DARK, dark_gap
from lesionwise.geometry.volume import Volume
from lesionwise.types import MaskArray

FAINT = 0.6
"""Share of Otsu's threshold (bright tissue against the rest) above which a voxel belongs to a head."""

BACKGROUND_SHARE = 0.3
"""A stripped image is exactly 0 in at least this share of its voxels."""


def stripped_brain(channel: Volume) -> MaskArray | None:
    """The brain of a channel from which everything else was removed; None for a head as the scanner gives it.

    Stripping leaves exact zeros around, no more than a brain (`LARGEST_BRAIN_ML`) within them, and no bone under its outline.
    A scanner's background is noise, and a head whose background was zeroed is larger and has bone.
    """
    data = channel.data[0]
    inside = data != 0
    if inside.mean() > 1 - BACKGROUND_SHARE:
        return None
    solid = ndimage.binary_fill_holes(inside)
    if float(solid.sum()) * channel.voxel_volume_mm3 / 1000 > LARGEST_BRAIN_ML:
        return None
    return None if dark_gap(channel) > MOST_DARK else solid


def whole_head(channel: Volume) -> MaskArray:
    """The head with skull and scalp: the largest part that is brighter than the background, without holes.

    Raises InputError if nothing is.
    """
    data = np.clip(channel.data[0], 0, np.percentile(channel.data[0], 99.5))
    if not data.max() > data.min():
        raise InputError(f"Expected a head in the {channel.channels[0]} image, found the same value everywhere.")
    bright = data > FAINT * _otsu(data)
    labels, count = ndimage.label(ndimage.binary_opening(bright))
    if count == 0:
        raise InputError(f"Expected a head in the {channel.channels[0]} image, found nothing brighter than the rest.")
    filled = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    for axis in range(3):  # open at the neck and at the last slice: holes are filled plane by plane
        for plane in np.moveaxis(filled, axis, 0):
            plane[...] = ndimage.binary_fill_holes(plane)
    return filled


def _otsu(data: np.ndarray) -> float:
    """Threshold that parts the values into the two most compact classes (Otsu 1979)."""
    counts, edges = np.histogram(data, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centres[int(np.nanargmax(spread))])
