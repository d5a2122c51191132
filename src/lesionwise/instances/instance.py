"""One lesion: the voxels that a map explains together, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int32

from lesionwise.errors import InputError
from lesionwise.geometry.affine import to_mm, voxel_volume_mm3
from lesionwise.geometry.box import Box
from lesionwise.types import Affine, MaskArray, Millimetres, Outcome, Shape, VoxelArray

Source = Literal["prediction", "reference", "control"]


@dataclass(frozen=True, eq=False)
class Instance:
    """A set of voxels Omega on the scan's grid.

    `label` is its number in the scan, unique over all outcomes. `outcome` is None without a reference. `source` says
    whose voxels they are. `iou` is the best intersection over union with one reference component (0 to 1), 0 for FP, FN
    and TN. `reference_lesions` are the numbers of the reference's components (in scan order, from 1) that share a voxel
    with it; of a missed lesion, its own number. `voxels` are grid indices (n, 3); `affine` takes them to RAS millimetres.
    """

    label: int
    voxels: VoxelArray
    affine: Affine
    outcome: Outcome | None = None
    source: Source = "prediction"
    iou: float = 0.0
    reference_lesions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.voxels) == 0:
            raise InputError(f"A lesion needs at least one voxel, but lesion {self.label} has none.")

    @property
    def n_voxels(self) -> int:
        """Size in voxels."""
        return len(self.voxels)

    @property
    def volume_mm3(self) -> float:
        """Size in mm3: voxels times |det| of the affine."""
        return self.n_voxels * voxel_volume_mm3(self.affine)

    @property
    def centroid_mm(self) -> Millimetres:
        """Mean position in RAS mm."""
        x, y, z = to_mm(self.voxels.mean(axis=0, keepdims=True), self.affine)[0]
        return float(x), float(y), float(z)

    @property
    def box(self) -> Box:
        """Smallest box of voxels that holds the lesion."""
        return Box.around(self.voxels)

    @property
    def index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Index that picks the lesion's voxels from an (i, j, k) array."""
        return self.voxels[:, 0], self.voxels[:, 1], self.voxels[:, 2]

    def mask(self, shape: Shape) -> MaskArray:
        """The lesion as a mask of the whole grid."""
        out = np.zeros(shape, dtype=bool)
        out[self.index] = True
        return out


def instances_to_labels(instances: Sequence[Instance], shape: Shape) -> Int32[np.ndarray, "i j k"]:
    """One image with each lesion's number at its voxels, 0 elsewhere.

    Where lesions share voxels (one-to-one matching can leave a missed reference lesion under a predicted one), the
    prediction wins.
    """
    labels = np.zeros(shape, dtype=np.int32)
    for instance in sorted(instances, key=lambda one: one.source == "prediction"):
        labels[instance.index] = instance.label
    return labels
