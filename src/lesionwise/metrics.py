"""How well a segmentation agrees with its reference: voxels, lesions and surfaces."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lesionwise.types import LabelArray


@dataclass(frozen=True, eq=False)
class ComponentOverlap:
    """Which components of a prediction meet which components of a reference.

    One row per pair that shares at least one voxel: `prediction` and `reference` are component numbers (from 1),
    `shared_vox` the voxels in common, `iou` their intersection over union (0 to 1, higher is better). `*_vox[n - 1]` is
    the size of component n.
    """

    prediction: Int[np.ndarray, " pairs"]
    reference: Int[np.ndarray, " pairs"]
    shared_vox: Int[np.ndarray, " pairs"]
    prediction_vox: Int[np.ndarray, " predicted"]
    reference_vox: Int[np.ndarray, " referenced"]

    @property
    def iou(self) -> Float[np.ndarray, " pairs"]:
        """Intersection over union of each pair."""
        union = self.prediction_vox[self.prediction - 1] + self.reference_vox[self.reference - 1] - self.shared_vox
        return self.shared_vox / union


def component_overlap(prediction: LabelArray, reference: LabelArray) -> ComponentOverlap:
    """Counts the voxels that each predicted component shares with each reference component (labels from 1, 0 outside).

    >>> import numpy as np
    >>> p, r = np.array([[[1, 1, 0, 2]]]), np.array([[[0, 1, 1, 0]]])
    >>> component_overlap(p, r).iou.round(3).tolist()
    [0.333]
    """
    both = (prediction > 0) & (reference > 0)
    pairs, shared = np.unique(np.stack([prediction[both], reference[both]]), axis=1, return_counts=True)
    return ComponentOverlap(
        prediction=pairs[0].astype(np.int64),
        reference=pairs[1].astype(np.int64),
        shared_vox=shared.astype(np.int64),
        prediction_vox=_sizes(prediction),
        reference_vox=_sizes(reference),
    )


def _sizes(labels: LabelArray) -> np.ndarray:
    return np.bincount(labels[labels > 0])[1:].astype(np.int64)
