"""The reference lesions of a scan, and how much of them a predicted lesion draws."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from lesionwise.geometry.affine import voxel_volume_mm3
from lesionwise.report.scene import ScanView
from lesionwise.report.told import Drawn


@dataclass(frozen=True, eq=False)
class ReferenceLesions:
    """Connected components (18 neighbours) of the reference on the scene's grid, and their sizes in voxels."""

    labels: np.ndarray
    sizes: np.ndarray
    voxel_mm3: float

    @classmethod
    def of(cls, scene: ScanView) -> "ReferenceLesions | None":
        """None without a reference."""
        if scene.reference is None:
            return None
        labels, _ = ndimage.label(scene.reference, structure=ndimage.generate_binary_structure(3, 2))
        return cls(labels, np.bincount(labels.ravel()), voxel_volume_mm3(scene.affine))

    def met_by(self, voxels: np.ndarray, row: Mapping[Any, Any]) -> Drawn | None:
        """Of a lesion with these voxels (n, 3); None if it meets no reference lesion. The numbers are the table's."""
        here = self.labels[tuple(voxels.T)]
        met = np.unique(here[here > 0])
        if not len(met):
            return None
        named = row.get("reference_lesions")
        numbers = tuple(int(part) for part in str(named).split(",") if part.strip().isdigit()) if named else ()
        whole, shared = int(self.sizes[met].sum()), int((here > 0).sum())
        return Drawn(len(met), whole * self.voxel_mm3, shared * self.voxel_mm3, numbers)
