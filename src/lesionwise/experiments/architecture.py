"""What the context distance means for the architecture: quality against the window that predicts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.attribution import Gradient
from lesionwise.experiments.chart import Chart, Line, Panel
from lesionwise.experiments.experiment import Experiment, Finding, keyed, patients_note
from lesionwise.experiments.scan import Scan
from lesionwise.instances.components import label_components
from lesionwise.metrics import lesion_counts, normalised_dice
from lesionwise.stats import mean_over_patients
from lesionwise.windows import WindowGrid, predict, probability_on_scan

WINDOWS_VOX = (48, 64, 80, 96, 112, 128)
ERF_SHARE = 0.95
ERF_LESIONS = 10


def architecture_rows(scan: Scan, *, windows_vox: Sequence[int] = WINDOWS_VOX) -> pd.DataFrame:
    """One row per prediction window (cubes): nDSC and lesion TPR of the scan when predicted with it.

    Windows that the network cannot take (its strides do not divide them) are named in `note`. `erf_mm` is the mean
    radius around (at most ten) lesions that holds 95 % of their gradients' mass: the effective receptive field as used.
    Without a reference only `erf_mm` can be given.
    """
    rows: list[dict[str, Any]] = []
    reference = scan.case.reference
    erf = _used_radius_mm(scan)
    for size in windows_vox:
        row: dict[str, Any] = {"window_vox": int(size), "ndsc": np.nan, "tpr": np.nan, "erf_mm": erf, "note": ""}
        rows.append(row)
        if reference is None:
            row["note"] = "no reference"
            continue
        spec = replace(scan.model.spec, window=(int(size),) * 3)
        grid = WindowGrid.of(spec, scan.grid.shape)
        try:
            logits = predict(scan.model.network, scan.placement.input.to(scan.device), grid).cpu()
        except (RuntimeError, ValueError) as error:
            row["note"] = f"the network cannot take this window ({type(error).__name__})"
            continue
        on_scan = probability_on_scan(logits, scan.placement, spec)
        mask = on_scan.numpy() > scan.threshold
        connectivity = scan.explained.settings.connectivity
        labels = [label_components(part, connectivity=connectivity) for part in (mask, reference)]
        row["ndsc"] = normalised_dice(mask, reference)
        row["tpr"] = lesion_counts(labels[0], labels[1], min_voxels=spec.min_size_vox).tpr
    return keyed(scan, rows)


def architecture_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """nDSC and TPR against the window, over patients."""
    marks: dict[str, Line] = {}
    best: dict[str, tuple[int, float]] = {}
    for column, label in (("ndsc", "nDSC"), ("tpr", "lesion TPR")):
        x, y, low, high = [], [], [], []
        for size, part in rows.groupby("window_vox"):
            one = mean_over_patients(part[column].to_numpy(dtype=float), part["subject"].to_numpy(dtype=str), rng=rng)
            if np.isfinite(one.estimate):
                x.append(float(size))
                y.append(one.estimate)
                low.append(one.low)
                high.append(one.high)
        if x:
            marks[label] = Line(label, x, y, low, high, markers=True)
            best[label] = (int(x[int(np.argmax(y))]), max(y))
    if not marks:
        return Finding("No scan had a reference: quality against the prediction window cannot be measured.")
    erf = rows.groupby("subject")["erf_mm"].mean().mean()
    panel = Panel("prediction window", "window (voxels, cube)", "score", list(marks.values()))
    chart = Chart("architecture", "Quality against the prediction window", (panel,), "Bands: 95 % over patients.")
    parts = [
        f"{label} was highest with a window of {size} voxels ({value:.3f})" for label, (size, value) in best.items()
    ]
    text = f"{patients_note(rows)}. {'; '.join(parts)}."
    if np.isfinite(erf):
        text += f" Gradients hold {ERF_SHARE:.0%} of their mass within {erf:.1f} mm of the lesion on average."
    text += " Windows are those of prediction; the network was trained with one patch size."
    return Finding(text, (chart,), {"architecture": rows.groupby("window_vox")[["ndsc", "tpr"]].mean().reset_index()})


def _used_radius_mm(scan: Scan) -> float:
    """Mean over lesions of the distance from Omega within which 95 % of the gradient's mass lies."""
    radii = []
    chosen = scan.chosen[:ERF_LESIONS]
    for instance, saliency in zip(chosen, scan.attribute(chosen, Gradient()) if chosen else [], strict=True):
        distance = np.maximum(scan.distance_mm(instance)[saliency.box.slices], 0.0).ravel()
        mass = np.abs(saliency.data).sum(axis=0).ravel()
        order = np.argsort(distance)
        total = np.cumsum(mass[order])
        if total[-1] > 0:
            radii.append(float(distance[order][np.searchsorted(total, ERF_SHARE * total[-1])]))
    return float(np.mean(radii)) if radii else float("nan")


EXPERIMENT = Experiment(
    name="architecture",
    question="What does the context distance mean for the prediction window?",
    rows_fn=architecture_rows,
    group_fn=architecture_finding,
    defaults={"windows_vox": WINDOWS_VOX},
)
