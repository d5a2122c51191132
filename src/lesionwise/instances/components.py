"""Connected components of a mask, as lists of voxels, at a cost that grows with the foreground and not the volume."""

from typing import Literal

import numpy as np
from jaxtyping import Int32
from scipy import ndimage

from lesionwise.errors import InputError
from lesionwise.geometry.affine import voxel_volume_mm3
from lesionwise.types import Affine, MaskArray, VoxelArray

CONNECTIVITIES = {6: 1, 18: 2, 26: 3}
SizeUnit = Literal["voxels", "mm3"]


def label_components(mask: MaskArray, *, connectivity: int = 18) -> Int32[np.ndarray, "i j k"]:
    """Numbers the connected components of a mask from 1 in scan order; 0 outside.

    `connectivity` 6: voxels that share a face; 18: a face or an edge (published); 26: a face, an edge or a corner.
    Raises InputError for any other connectivity.
    """
    if connectivity not in CONNECTIVITIES:
        raise InputError(f"Connectivity must be 6, 18 or 26, but is {connectivity}.")
    labels = np.zeros(mask.shape, dtype=np.int32)
    spans = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if len(spans[0]) == 0:
        return labels
    inside = tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    structure = ndimage.generate_binary_structure(3, CONNECTIVITIES[connectivity])
    ndimage.label(mask[inside], structure=structure, output=labels[inside])
    return labels


def component_voxels(labels: np.ndarray) -> list[VoxelArray]:
    """Voxels (n, 3) of component 1, 2, ... of a label image, each in scan order.

    Only foreground voxels are touched, so that one confluent lesion that spans the brain costs no more than its size.
    """
    voxels = np.argwhere(labels > 0)
    numbers = labels[labels > 0]
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers)[1:]) if len(numbers) else np.zeros(0, dtype=int)
    return np.split(voxels[order], ends[:-1]) if len(ends) else []


def minimum_voxels(min_size: int | float, *, unit: SizeUnit, affine: Affine) -> float:
    """Smallest number of voxels that a lesion must have to be kept, for a size in voxels or in mm3."""
    if min_size < 0:
        raise InputError(f"The minimum size must not be negative, but is {min_size} {unit}.")
    # A size that is meant to be met exactly (6 voxels of 0.8 mm3) must not fail by a rounding error.
    return float(min_size) if unit == "voxels" else min_size / voxel_volume_mm3(affine) * (1.0 - 1e-6)


def parse_min_size(text: str) -> tuple[float, SizeUnit]:
    """Reads a minimum size as people write it: `6` or `6vox` are voxels, `5mm3` is a volume.

    >>> parse_min_size("5mm3")
    (5.0, 'mm3')
    """
    bare = text.strip().lower()
    unit: SizeUnit = "mm3" if bare.endswith("mm3") else "voxels"
    for ending in ("mm3", "voxels", "vox"):
        bare = bare.removesuffix(ending).strip()
    try:
        size = float(bare)
    except ValueError:
        size = float("nan")
    if not 0 <= size < float("inf"):
        raise InputError(f"The minimum size must look like 6 (voxels) or 5mm3, but is {text!r}.")
    return size, unit
