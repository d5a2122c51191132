"""Threshold, smallest lesion and calibration of a cross-validated run, from patients its networks have not seen.

Every scan is predicted by the network of the fold that left its patient out. What is chosen for a fold is chosen on the
patients of the other folds; what is chosen for strangers on all of them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import optimize, special

from lesionwise.errors import InputError
from lesionwise.geometry.volume import Case
from lesionwise.instances.components import label_components
from lesionwise.io.bids import BidsScan
from lesionwise.io.cases import read_scan_case
from lesionwise.io.files import write_text
from lesionwise.metrics import match_components, normalised_dice
from lesionwise.models.folds import CrossValidated
from lesionwise.types import ProgressFn
from lesionwise.windows import WindowGrid, predict, probability_on_scan

THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(2, 19))
MIN_SIZES = (3, 6, 9, 12)
CONNECTIVITY = 18
REFERENCE_VOX = 6
"""Reference lesions below are not asked for, as published."""

SAMPLE_VOX = 40_000
"""Voxels of each scan that the calibration is fitted to."""


@dataclass(frozen=True)
class OperatingPoint:
    """What turns probabilities into lesions: `threshold`, and the fewest voxels of a lesion on the scan's grid.

    `score` is the mean over the patients it was chosen on of (nDSC + lesion F1) / 2, 0 to 1, higher is better.
    """

    threshold: float
    min_size_vox: int
    score: float
    patients: int


@dataclass(frozen=True)
class VoxelCalibration:
    """Calibrated log-odds = `scale` x log-odds + `shift` (Platt scaling)."""

    scale: float
    shift: float


@dataclass(frozen=True)
class OutOfFold:
    """Choices made out of fold: one operating point per fold, one for strangers, and the calibration."""

    folds: tuple[OperatingPoint, ...]
    strangers: OperatingPoint
    calibration: VoxelCalibration
    scores: pd.DataFrame
    reliability: pd.DataFrame


def choose_out_of_fold(
    model: CrossValidated, scans: Sequence[BidsScan], *, progress_fn: ProgressFn | None = None
) -> OutOfFold:
    """Predicts every scan by the network that has not seen it and chooses. Raises InputError for a scan without mask."""
    rows: list[dict[str, object]] = []
    samples: list[tuple[str, np.ndarray, np.ndarray]] = []
    for number, scan in enumerate(scans, start=1):
        case = read_scan_case(scan, resample=True)
        fold = model.fold_of(case)
        if fold is None or case.reference is None:
            raise InputError(f"Expected {scan.name.stem} to be a marked scan of the cross-validated patients.")
        p = predicted(model, case)
        rows += [
            {"subject": scan.name.subject, "scan": scan.name.stem, "fold": fold, **row} for row in _scores(p, case)
        ]
        samples.append((scan.name.subject, *_sample(p, case, seed=number)))
        if progress_fn is not None:
            progress_fn("choose", number, len(scans))
    table = pd.DataFrame(rows)
    folds = tuple(best_point(table[table["fold"] != fold]) for fold in range(len(model.parts)))
    calibration = fit_calibration(samples)
    return OutOfFold(folds, best_point(table), calibration, table, reliability(samples, calibration))


def predicted(model: CrossValidated, case: Case) -> Float[np.ndarray, "i j k"]:
    """Lesion probability on the scan's grid, of the network that has not seen the patient."""
    one = model.for_case(case)
    placement = one.place(case)
    x = placement.input
    grid = WindowGrid.of(one.spec, (x.shape[2], x.shape[3], x.shape[4]))
    return probability_on_scan(predict(one.network, x, grid), placement, one.spec).numpy()


def best_point(table: pd.DataFrame) -> OperatingPoint:
    """The threshold and smallest lesion with the best mean over patients of (nDSC + lesion F1) / 2."""
    points = table.assign(score=(table["ndsc"] + table["f1"]) / 2)
    keys = ["threshold", "min_size_vox"]
    by_patient = points.groupby([*keys, "subject"])["score"].mean().groupby(keys).mean()
    best = by_patient.idxmax()
    threshold, size = best if isinstance(best, tuple) else (best, 1)
    return OperatingPoint(float(threshold), int(size), float(by_patient.max()), int(table["subject"].nunique()))


def fit_calibration(samples: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> VoxelCalibration:
    """Scale and shift of the log-odds with the least cross-entropy, each patient weighing the same.

    A sample is (patient, log-odds, lesion or not) of random voxels of the head.
    """
    patients = [subject for subject, _, _ in samples]
    weight = [np.full(len(z), 1 / (patients.count(s) * len(z))) for s, z, _ in samples]
    z, y, w = (np.concatenate(part) for part in ([z for _, z, _ in samples], [y for _, _, y in samples], weight))

    def entropy(parameters: np.ndarray) -> float:
        score = np.exp(parameters[0]) * z + parameters[1]
        return float((w * (np.logaddexp(0, score) - y * score)).sum())

    found = optimize.minimize(entropy, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-9})
    return VoxelCalibration(float(np.exp(found.x[0])), float(found.x[1]))


def reliability(samples: Sequence[tuple[str, np.ndarray, np.ndarray]], calibration: VoxelCalibration) -> pd.DataFrame:
    """Predicted against observed lesion fraction per bin of a tenth, before and after calibration."""
    z, y = np.concatenate([z for _, z, _ in samples]), np.concatenate([y for _, _, y in samples])
    rows = []
    for name, score in (("before", z), ("after", calibration.scale * z + calibration.shift)):
        p = special.expit(score)
        which = np.clip((p * 10).astype(int), 0, 9)
        for number in range(10):
            inside = which == number
            if inside.any():
                rows.append((name, float(p[inside].mean()), float(y[inside].mean()), int(inside.sum())))
    return pd.DataFrame(rows, columns=["calibration", "predicted", "observed", "voxels"])


def write_choices(folder: Path, chosen: OutOfFold) -> None:
    """RUN/out-of-fold.json, RUN/out-of-fold-scores.csv and RUN/reliability.csv."""
    facts = {
        "folds": [asdict(point) for point in chosen.folds],
        "strangers": asdict(chosen.strangers),
        "calibration": asdict(chosen.calibration),
        "rule": "best mean over patients of (nDSC + lesion F1) / 2; a fold's on the patients of the other folds",
    }
    write_text(folder / "out-of-fold.json", json.dumps(facts, indent=2) + "\n")
    write_text(folder / "out-of-fold-scores.csv", chosen.scores.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "reliability.csv", chosen.reliability.to_csv(index=False, lineterminator="\n"))


def _scores(p: np.ndarray, case: Case) -> list[dict[str, float]]:
    reference = label_components(np.asarray(case.reference), connectivity=CONNECTIVITY)
    rows = []
    for threshold in THRESHOLDS:
        mask = p > threshold
        labels = label_components(mask, connectivity=CONNECTIVITY)
        ndsc = normalised_dice(mask, reference > 0)
        for size in MIN_SIZES:
            f1 = lesion_f1(labels, reference, smallest_vox=size)
            rows.append({"threshold": threshold, "min_size_vox": size, "ndsc": ndsc, "f1": f1})
    return rows


def lesion_f1(prediction: Int[np.ndarray, "i j k"], reference: Int[np.ndarray, "i j k"], *, smallest_vox: int) -> float:
    """F1 of lesions when predicted components below `smallest_vox` are dropped, 0 to 1, higher is better.

    The reference lesions to be found stay the same whatever is dropped (those of REFERENCE_VOX and more): else a rule
    that drops more would also have fewer to find. A predicted lesion on a smaller reference lesion is right.
    """
    sizes = np.bincount(prediction.ravel())
    kept = np.where(sizes[prediction] >= smallest_vox, prediction, 0)
    right, found = match_components(relabelled(kept), reference)
    wanted = np.bincount(reference.ravel(), minlength=len(found) + 1)[1:] >= REFERENCE_VOX
    if not len(right) + wanted.sum():
        return 1.0
    true, predicted_n = int(right.sum()), len(right)
    recall = float(found[wanted].mean()) if wanted.any() else 1.0
    precision = true / predicted_n if predicted_n else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def relabelled(labels: Int[np.ndarray, "i j k"]) -> Int[np.ndarray, "i j k"]:
    """The same components numbered 1, 2, ... without gaps."""
    present = np.unique(labels[labels > 0])
    lookup = np.zeros(int(labels.max()) + 1, dtype=labels.dtype)
    lookup[present] = np.arange(1, len(present) + 1)
    return lookup[labels]


def _sample(p: np.ndarray, case: Case, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    head = np.flatnonzero(case.head)
    chosen = np.random.default_rng([seed, 7]).choice(head, min(SAMPLE_VOX, len(head)), replace=False)
    clipped = np.clip(p.ravel()[chosen].astype(np.float64), 1e-6, 1 - 1e-6)
    return special.logit(clipped), np.asarray(case.reference).ravel()[chosen].astype(np.float64)


def calibrated_probability(p: float, calibration: VoxelCalibration) -> float:
    """What a probability becomes by the calibration."""
    return float(special.expit(calibration.scale * special.logit(p) + calibration.shift))


def calibrated_weights(network: torch.nn.Module, calibration: VoxelCalibration) -> torch.nn.Module:
    """The calibration put into the last layer of a two-class network, in place: logits x scale, lesion logit + shift.

    Raises InputError if the last layer is not a convolution with a bias and two outputs.
    """
    last = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d | torch.nn.ConvTranspose3d)][-1]
    if last.out_channels != 2 or last.bias is None:
        raise InputError(f"Expected a last convolution with two outputs and a bias to calibrate, found {last}.")
    with torch.no_grad():
        last.weight.mul_(calibration.scale)
        last.bias.mul_(calibration.scale)
        last.bias[1] += calibration.shift
    return network
