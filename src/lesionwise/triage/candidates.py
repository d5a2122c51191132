"""Likely misses: places just below the threshold, ranked by how probable a lesion is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from lesionwise.geometry.affine import to_mm
from lesionwise.instances.components import component_voxels, label_components
from lesionwise.triage.baselines import baseline_features
from lesionwise.triage.families import BASELINES, catalogue, of_families
from lesionwise.triage.fitting import Cohort, fit
from lesionwise.triage.scan import TriageScan
from lesionwise.triage.scorer import Calibration, LinearScorer
from lesionwise.types import VoxelArray

LOWER = 0.1
"""The lower threshold as a fraction of the model's: low enough that misses are among the candidates."""

MIN_VOXELS = 3
SURFACE_MM = 3.0
"""Candidates that come nearer to the head's border rank last, unless a model learned otherwise."""
FAMILIES = (*BASELINES, "image")


@dataclass(frozen=True, eq=False)
class CandidateModel:
    """Probability that a sub-threshold candidate is a missed lesion, from baseline features (no maps are needed)."""

    names: tuple[str, ...]
    scorer: LinearScorer
    calibration: Calibration
    facts: Mapping[str, Any]

    def probability(self, candidates: pd.DataFrame) -> np.ndarray:
        """Calibrated probability of being a missed lesion."""
        table = candidates.reindex(columns=list(self.names)).to_numpy(dtype=float)
        return self.calibration.probability(self.scorer.log_odds(table))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        line = {"slope": self.calibration.slope, "intercept": self.calibration.intercept}
        scorer = self.scorer.as_dict(self.names)
        return {"names": list(self.names), "scorer": scorer, "calibration": line, "facts": dict(self.facts)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "CandidateModel":
        """The model that `as_dict` wrote."""
        names = tuple(content["names"])
        scorer = LinearScorer.from_dict(content["scorer"], names)
        return cls(names, scorer, Calibration(**content["calibration"]), content["facts"])


def find_candidates(scan: TriageScan, *, measured: bool = True) -> pd.DataFrame:
    """Components of the brain above a tenth of the threshold that hold no predicted voxel, with their baseline features.

    In the brain: every channel is non-zero in the component and in the voxels that touch it (where the images are at hand).

    Without `measured` only the highest probability is looked at: enough to order them, and much quicker.

    Columns: subject, scan, candidate, x_mm, y_mm, z_mm, volume_mm3, outcome (with a reference: "miss" if it lies on a
    missed reference lesion, else "other"; None without), missed (the number of that lesion, else nan), weight 1,
    near_surface (1 where it comes within `SURFACE_MM` of the head's border, else 0), and the features. Largest probability
    first, those near the surface last.
    """
    low = label_components(scan.probability > LOWER * scan.threshold, connectivity=18)
    touched = np.unique(low[scan.mask])
    low[np.isin(low, touched)] = 0
    voxels = [v for v in component_voxels(label_components(low > 0, connectivity=18)) if len(v) >= MIN_VOXELS]
    voxels = _in_the_brain(scan, voxels)
    shallow = [_near_surface(scan, v) for v in voxels]
    order = sorted(range(len(voxels)), key=lambda n: (shallow[n], -float(scan.probability[tuple(voxels[n].T)].max())))
    voxels, shallow = [voxels[n] for n in order], [shallow[n] for n in order]
    labels = np.zeros(scan.labels.shape, dtype=np.int32)
    rows = []
    voxel_mm3 = float(np.prod(scan.sizes_mm))
    for number, members in enumerate(voxels, start=1):
        labels[tuple(members.T)] = number
        missed = _missed(scan, members)
        x, y, z = to_mm(members.mean(axis=0, keepdims=True), scan.affine)[0]
        rows.append(
            {
                "subject": scan.name.subject,
                "scan": scan.name.stem,
                "candidate": number,
                "x_mm": float(x),
                "y_mm": float(y),
                "z_mm": float(z),
                "volume_mm3": len(members) * voxel_mm3,
                "outcome": None if missed is None else ("other" if np.isnan(missed) else "miss"),
                "missed": np.nan if missed is None else missed,
                "weight": 1.0,
                "near_surface": float(shallow[number - 1]),
            }
        )
    columns = ["subject", "scan", "candidate", "x_mm", "y_mm", "z_mm", "volume_mm3", "outcome", "missed", "weight"]
    columns.append("near_surface")
    found = pd.DataFrame(rows, columns=columns)
    if found.empty:
        return found
    if not measured:
        return found.assign(probability_max=[float(scan.probability[tuple(v.T)].max()) for v in voxels])
    listed = found.rename(columns={"candidate": "lesion"})[["lesion", "x_mm", "y_mm", "z_mm"]].assign(outcome=None)
    stage = scan.with_instances(labels, listed)
    measured = pd.DataFrame([baseline_features(stage, stage.view(n)) for n in found["candidate"]])
    return pd.concat([found, measured], axis=1)


def fit_candidates(candidates: pd.DataFrame, *, channels: Sequence[str], seed: int = 0) -> CandidateModel | None:
    """A model of which candidates are missed lesions; None where there are too few of either kind to learn from."""
    known = candidates[candidates["outcome"].notna()]
    misses = known["outcome"] == "miss"
    enough = min(int(misses.sum()), int((~misses).sum())) >= 8 and known.loc[misses, "subject"].nunique() >= 4
    if not enough:
        return None
    names = of_families(catalogue(channels), FAMILIES)
    cohort = Cohort(
        table=known[names].to_numpy(dtype=float),
        names=tuple(names),
        false=misses.to_numpy().astype(np.int64),
        patients=known["subject"].to_numpy().astype(str),
        weights=known["weight"].to_numpy(dtype=float),
    )
    fitted = fit(cohort, seed=seed)
    if not isinstance(fitted.scorer, LinearScorer):
        return None
    scorer, kept = fitted.scorer.pruned()
    facts = {"misses": int(misses.sum()), "others": int((~misses).sum()), "lower_threshold": LOWER}
    return CandidateModel(tuple(names[i] for i in kept), scorer, fitted.calibration, facts)


def _in_the_brain(scan: TriageScan, voxels: list[np.ndarray]) -> list[np.ndarray]:
    """Those in and around which every channel is non-zero; all of them where the images are not at hand.

    Holes that tissue closes around (fluid that was clipped to 0) belong to the brain.
    """
    if scan.case is None:
        return voxels
    picked = [scan.case.image.channels.index(name) for name in scan.channels]
    brain = ndimage.binary_fill_holes(np.all(scan.case.image.data[picked] != 0, axis=0))
    inner = ndimage.binary_erosion(brain, structure=np.ones((3, 3, 3)), border_value=0)
    return [members for members in voxels if inner[tuple(members.T)].all()]


def _near_surface(scan: TriageScan, members: VoxelArray) -> bool:
    """True within `SURFACE_MM` of the head's border, where rims, vessels and skull left over look like lesions."""
    depth = scan.head_depth_mm
    return depth is not None and bool(depth[tuple(members.T)].min() < SURFACE_MM)


def _missed(scan: TriageScan, members: np.ndarray) -> float | None:
    """The missed lesion that a candidate lies on most, nan if on none, None without a reference.

    FN instances carry the missed reference components.
    """
    if not scan.lesions["outcome"].notna().any():
        return None
    missed = scan.lesions.loc[scan.lesions["outcome"] == "FN", "lesion"].to_numpy(dtype=int)
    on = scan.labels[tuple(members.T)]
    on = on[np.isin(on, missed)]
    return float(np.bincount(on).argmax()) if len(on) else float("nan")
