"""How well a segmentation agrees with its reference: voxels, lesions and surfaces (METHOD section 6).

Lesions enter as label images (components numbered from 1, 0 outside), so that connectivity is the caller's choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from lesionwise.geometry.affine import voxel_sizes_mm, voxel_volume_mm3
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.types import Affine, LabelArray, MaskArray

if TYPE_CHECKING:
    import pandas as pd

NDSC_LOAD = 0.001
"""Lesion load r at which the normalised Dice of a prediction equals its Dice."""

IOU_THRESHOLD = 0.25
COUNTS = (
    "predicted",
    "predicted_true",
    "under_segmented",
    "false_positive",
    "reference",
    "reference_found",
    "reference_touched",
    "reference_specks",
    "false_negative",
)
"""Counts of `LesionCounts` that a table of metrics holds, each as lesions_<count>."""

MatchRule = Literal["overlap", "iou"]


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

    def reference_met(self, *, at_least_vox: float) -> Bool[np.ndarray, " referenced"]:
        """Which reference components share a voxel with a predicted component of at least this size."""
        met = np.zeros(len(self.reference_vox), dtype=bool)
        met[self.reference[self.prediction_vox[self.prediction - 1] >= at_least_vox] - 1] = True
        return met

    def covered(self, number: int) -> tuple[int, ...]:
        """Numbers of the reference components that share a voxel with predicted component `number`."""
        return tuple(int(n) for n in np.sort(self.reference[self.prediction == number]))

    def best(self) -> tuple[Float[np.ndarray, " predicted"], Float[np.ndarray, " referenced"]]:
        """Best IoU of each predicted component, and of each reference component, with any component of the other."""
        predicted, referenced = np.zeros(len(self.prediction_vox)), np.zeros(len(self.reference_vox))
        np.maximum.at(predicted, self.prediction - 1, self.iou)
        np.maximum.at(referenced, self.reference - 1, self.iou)
        return predicted, referenced

    def one_to_one(self) -> tuple[Float[np.ndarray, " predicted"], Float[np.ndarray, " referenced"]]:
        """IoU of each component with its one partner (0 without), in the pairing with the largest sum of IoU."""
        predicted, referenced = np.zeros(len(self.prediction_vox)), np.zeros(len(self.reference_vox))
        # Only components that touch something take part: the matrix stays small however many specks there are.
        rows, row = np.unique(self.prediction, return_inverse=True)
        columns, column = np.unique(self.reference, return_inverse=True)
        score = np.zeros((len(rows), len(columns)))
        score[row, column] = self.iou
        for r, c in zip(*scipy.optimize.linear_sum_assignment(score, maximize=True), strict=True):
            predicted[rows[r] - 1] = referenced[columns[c] - 1] = score[r, c]
        return predicted, referenced


def component_overlap(prediction: LabelArray, reference: LabelArray) -> ComponentOverlap:
    """Counts the voxels that each predicted component shares with each reference component.

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


def dice(prediction: MaskArray, reference: MaskArray) -> float:
    """Dice = 2 TP / (2 TP + FP + FN), 0 to 1, higher is better; 1 if both masks are empty."""
    total = int(prediction.sum()) + int(reference.sum())
    return 2.0 * int((prediction & reference).sum()) / total if total else 1.0


def normalised_dice(prediction: MaskArray, reference: MaskArray, *, load: float = NDSC_LOAD) -> float:
    """nDSC = 2 TP / (2 TP + FN + k FP), k = (1 - r) h / (r (V - h)): Dice as if the lesion load h / V were r.

    0 to 1, higher is better. V counts all voxels of the images. k = 1 where the reference is empty (the score is then
    0, or 1 if the prediction is empty too). Without healthy voxels (h = V) there can be no false positive. Raina2023.
    """
    h, v = int(reference.sum()), reference.size
    tp = int((prediction & reference).sum())
    fp, fn = int(prediction.sum()) - tp, h - tp
    k = 1.0 if h == 0 or h == v else (1.0 - load) * h / (load * (v - h))
    denominator = 2.0 * tp + fn + k * fp
    return 2.0 * tp / denominator if denominator else 1.0


@dataclass(frozen=True)
class LesionCounts:
    """Lesions found and missed in one scan or many (sum the counts, then read the rates).

    `predicted` and `reference` count components; `predicted_true` those predicted that are right; `reference_found`
    those of the reference that were found. Under the IoU rule some only touch: `under_segmented` of those predicted
    (outcome US) and `reference_touched` of the reference; they are neither right nor found, but no false positives and no
    false negatives either, here and in the table of `explain`. `reference_specks` of the reference lesions were met by
    components below the minimum size only: they count as found (or touched), and no predicted lesion stands for them.
    Rates are NaN where their denominator is 0.
    """

    predicted: int
    predicted_true: int
    reference: int
    reference_found: int
    under_segmented: int = 0
    reference_touched: int = 0
    reference_specks: int = 0

    def __add__(self, other: "LesionCounts") -> "LesionCounts":
        """Counts of both together."""
        return LesionCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def false_positive(self) -> int:
        """Predicted lesions without overlap (outcome FP)."""
        return self.predicted - self.predicted_true - self.under_segmented

    @property
    def false_negative(self) -> int:
        """Reference lesions without a predicted voxel (outcome FN)."""
        return self.reference - self.reference_found - self.reference_touched

    @property
    def tpr_published(self) -> float:
        """TP_predicted / (TP_predicted + FN_reference), as published: fragments of one lesion count several times."""
        return _ratio(self.predicted_true, self.predicted_true + self._not_found)

    @property
    def tpr(self) -> float:
        """Found reference lesions / reference lesions, higher is better."""
        return _ratio(self.reference_found, self.reference)

    @property
    def fdr(self) -> float:
        """Predicted lesions that are not right / predicted lesions, lower is better."""
        return _ratio(self._not_right, self.predicted)

    @property
    def ppv(self) -> float:
        """True predicted lesions / predicted lesions = 1 - FDR, higher is better."""
        return _ratio(self.predicted_true, self.predicted)

    @property
    def fnr(self) -> float:
        """Reference lesions that were not found / reference lesions = 1 - TPR, lower is better."""
        return _ratio(self._not_found, self.reference)

    @property
    def fnr_published(self) -> float:
        """FN_reference / (TP_predicted + FN_reference) = 1 - published TPR, lower is better."""
        return _ratio(self._not_found, self.predicted_true + self._not_found)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN) with TP counted among the predictions, as published; higher is better."""
        return _ratio(2 * self.predicted_true, 2 * self.predicted_true + self._not_right + self._not_found)

    @property
    def _not_right(self) -> int:
        return self.predicted - self.predicted_true

    @property
    def _not_found(self) -> int:
        return self.reference - self.reference_found

    def rates(self) -> dict[str, float]:
        """All rates by name."""
        names = ("tpr", "tpr_published", "fdr", "fnr", "fnr_published", "f1", "ppv")
        return {name: getattr(self, name) for name in names}


def match_components(
    prediction: LabelArray,
    reference: LabelArray,
    *,
    rule: MatchRule = "overlap",
    iou_threshold: float = IOU_THRESHOLD,
    one_to_one: bool = False,
) -> tuple[Bool[np.ndarray, " predicted"], Bool[np.ndarray, " referenced"]]:
    """Which predicted components are right and which reference components are found.

    `overlap`: one shared voxel suffices. `iou`: the best IoU must reach `iou_threshold`; what is merely touched counts
    as false and as missed.
    """
    overlap = component_overlap(prediction, reference)
    predicted, referenced = overlap.one_to_one() if one_to_one else overlap.best()
    least = iou_threshold if rule == "iou" else 0.0
    return (predicted > 0) & (predicted >= least), (referenced > 0) & (referenced >= least)


def lesion_counts(
    prediction: LabelArray,
    reference: LabelArray,
    *,
    rule: MatchRule = "overlap",
    iou_threshold: float = IOU_THRESHOLD,
    one_to_one: bool = False,
    min_voxels: int = 6,
) -> LesionCounts:
    """Counts lesions of one scan: matched first, then components below `min_voxels` are left out on both sides.

    The counts are those of `find_instances` with the same settings: TP `predicted_true`, US `under_segmented`, FP and FN.
    """
    overlap = component_overlap(prediction, reference)
    predicted, referenced = overlap.one_to_one() if one_to_one else overlap.best()
    least = iou_threshold if rule == "iou" else 0.0
    large, real = overlap.prediction_vox >= min_voxels, overlap.reference_vox >= min_voxels
    met, touched = (predicted > 0) & large, (referenced > 0) & real
    true, found = met & (predicted >= least), touched & (referenced >= least)
    specks = touched & ~overlap.reference_met(at_least_vox=min_voxels)
    return LesionCounts(
        predicted=int(large.sum()),
        predicted_true=int(true.sum()),
        reference=int(real.sum()),
        reference_found=int(found.sum()),
        under_segmented=int((met & ~true).sum()),
        reference_touched=int((touched & ~found).sum()),
        reference_specks=int(specks.sum()),
    )


def lesion_table(
    prediction: LabelArray,
    reference: LabelArray,
    *,
    affine: Affine,
    ventricles: MaskArray | None = None,
    rule: MatchRule = "overlap",
    iou_threshold: float = IOU_THRESHOLD,
    min_voxels: int = 6,
) -> "pd.DataFrame":
    """One row per component of either side, for detection by size and place.

    Columns: side (prediction, reference), component, volume_mm3, matched (right, or found), ventricle_distance_mm (from
    the centre of the lesion's nearest voxel to the ventricles' border; NaN without a ventricle mask).
    """
    import pandas as pd

    matches = match_components(prediction, reference, rule=rule, iou_threshold=iou_threshold)
    distance = None
    if ventricles is not None and ventricles.any():
        distance = distance_to_mm(ventricles, voxel_sizes_mm(affine))
    parts = []
    for side, labels, matched in zip(("prediction", "reference"), (prediction, reference), matches, strict=True):
        sizes = _sizes(labels)
        numbers = np.arange(1, len(sizes) + 1)
        nearest = np.full(len(sizes), np.nan)
        if distance is not None and len(sizes):
            nearest = np.asarray(ndimage.minimum(distance, labels, numbers), dtype=float)
        frame = pd.DataFrame(
            {
                "side": side,
                "component": numbers,
                "volume_mm3": sizes * voxel_volume_mm3(affine),
                "matched": matched,
                "ventricle_distance_mm": nearest,
            }
        )
        parts.append(frame[sizes >= min_voxels])
    return pd.concat(parts, ignore_index=True)


def rates_by_bin(table: "pd.DataFrame", *, column: str, edges: Sequence[int | float]) -> "pd.DataFrame":
    """Lesion rates per bin [a, b) of a column of `lesion_table` (or of many tables, concatenated).

    TPR is of the reference lesions in the bin, FDR of the predicted lesions in the bin.
    """
    import pandas as pd

    rows = []
    for low, high in pairwise(edges):
        inside = table[(table[column] >= low) & (table[column] < high)]
        sides = {side: inside.loc[inside["side"] == side, "matched"] for side in ("prediction", "reference")}
        counts = LesionCounts(
            len(sides["prediction"]),
            int(sides["prediction"].sum()),
            len(sides["reference"]),
            int(sides["reference"].sum()),
        )
        rows.append(
            {
                "from": low,
                "to": high,
                "reference": counts.reference,
                "predicted": counts.predicted,
                "tpr": counts.tpr,
                "fdr": counts.fdr,
            }
        )
    return pd.DataFrame(rows)


def surface_distances(prediction: MaskArray, reference: MaskArray, *, affine: Affine) -> tuple[float, float]:
    """ASSD (average symmetric surface distance) and Hausdorff 95 % distance in mm, lower is better, by MONAI.

    NaN where either mask is empty: there is no surface to measure from.
    """
    if not prediction.any() or not reference.any():
        return float("nan"), float("nan")
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    p, r = (torch.from_numpy(mask.astype(np.uint8))[None, None] for mask in (prediction, reference))
    spacing = voxel_sizes_mm(affine)
    assd = compute_average_surface_distance(p, r, include_background=True, symmetric=True, spacing=spacing)
    hd95 = compute_hausdorff_distance(p, r, include_background=True, percentile=95.0, spacing=spacing)
    return float(assd), float(hd95)


def scan_metrics(
    prediction: LabelArray, reference: LabelArray, *, affine: Affine, min_voxels: int = 6, surfaces: bool = True
) -> dict[str, float]:
    """Every metric of one scan by name: voxels, volumes (mm3), surfaces (mm), lesions under the overlap and IoU rules.

    Both masks are labels > 0, before small components are dropped; lesion rates leave out those below `min_voxels`.
    """
    p, r = prediction > 0, reference > 0
    voxel = voxel_volume_mm3(affine)
    volumes = int(p.sum()) * voxel, int(r.sum()) * voxel
    assd, hd95 = surface_distances(p, r, affine=affine) if surfaces else (float("nan"), float("nan"))
    out = {
        "dice": dice(p, r),
        "ndsc": normalised_dice(p, r),
        "volume_predicted_mm3": volumes[0],
        "volume_reference_mm3": volumes[1],
        "volume_difference_mm3": volumes[0] - volumes[1],
        "volume_difference_relative": _ratio(volumes[0] - volumes[1], volumes[1]),
        "assd_mm": assd,
        "hd95_mm": hd95,
    }
    rules: tuple[MatchRule, MatchRule] = ("overlap", "iou")
    for rule in rules:
        counts = lesion_counts(prediction, reference, rule=rule, min_voxels=min_voxels)
        ending = "" if rule == "overlap" else "_iou"
        out |= {f"{name}{ending}": value for name, value in counts.rates().items()}
        out |= {f"lesions_{name}{ending}": float(getattr(counts, name)) for name in COUNTS}
    return out


def _sizes(labels: LabelArray) -> Int[np.ndarray, " components"]:
    return np.bincount(labels[labels > 0])[1:].astype(np.int64)


def _ratio(part: int | float, whole: int | float) -> float:
    return part / whole if whole else float("nan")
