"""How much of a lesion's surroundings the network needs to see (METHOD section 5, point 4)."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor

from lesionwise.asking.probe import Probe
from lesionwise.asking.scan import Scan
from lesionwise.charts.chart import Bar, Chart, Line, Panel, Violin
from lesionwise.charts.palette import series_colour
from lesionwise.experiments.experiment import Experiment, Finding, keyed, lesions_of, patients_note
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.norms import is_held
from lesionwise.stats import Interval, mean_over_patients, profile_over_patients

Fill = Literal["zero", "tissue", "blur"]
Step = Literal["euclidean", "dilation"]

DISTANCES_MM = tuple(float(d) for d in range(35))
FILLS: tuple[Fill, ...] = ("zero", "tissue", "blur")
BLUR_MM = 8.0
"""Width (SD) of the blurred fill."""
FULL = 0.95
"""Share of the full score at which the context counts as enough."""

PUBLISHED_MM = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 10.0, 14.0)
PUBLISHED_SCORE = (0.03, 0.19, 0.45, 0.63, 0.74, 0.83, 0.88, 0.955, 0.955)
"""Mean probability of the published U-Net for lesions of 91-119 voxels; read off a figure, approximate; steps of one
18-neighbour dilation, zero fill."""
PUBLISHED_DETECTED = tuple(count / 191 for count in (51, 115, 162, 177, 184, 189, 190))
"""Detected lesions of the same at 1..7 steps, of the 191 on its plateau; read off the same figure."""


def context_rows(
    scan: Scan,
    *,
    distances_mm: Sequence[float] = DISTANCES_MM,
    fills: Sequence[Fill] = FILLS,
    frozen: Sequence[bool] = (False, True),
    step: Step = "euclidean",
) -> pd.DataFrame:
    """One row per lesion, fill, normalisation and distance.

    Everything farther than the distance from Omega (Euclidean, mm, to its border; or `step="dilation"`: as many
    18-neighbour dilations, as published) is replaced: by `zero` (the mean of the head; published), by healthy `tissue`
    with its texture, or by the `blur`red scan (8 mm) without the lesion. `frozen` keeps the statistics of instance
    normalisation at their values for the whole scan; it is left out for networks that have none.
    Columns: distance_mm, fill, frozen, probability_mean, probability_max, target_mean, detected, full_probability,
    full_target, volume_mm3.
    """
    rows: list[dict[str, Any]] = []
    states = [state for state in frozen if not state or is_held(scan.model.network)]
    for instance in scan.chosen:
        probe = scan.probe(instance)
        far = probe.field(
            _distance(scan, instance.mask(scan.case.image.shape), step, max(distances_mm)), outside=np.inf
        )
        near = torch.from_numpy(far)
        for fill in fills:
            background = _background(probe, fill, rng=scan.rng(instance.label, 4))
            inputs = [torch.where(near <= d + 1e-6, probe.base, background) for d in distances_mm]
            for state in states:
                readings = probe.read(inputs, freeze_norm=state, like=background)
                for d, (reading,) in zip(distances_mm, readings, strict=True):
                    rows.append(
                        {
                            "lesion": instance.label,
                            "outcome": instance.outcome,
                            "volume_mm3": instance.volume_mm3,
                            "fill": fill,
                            "frozen": state,
                            "distance_mm": float(d),
                            "probability_mean": reading.score,
                            "probability_max": float(reading.probability.max()),
                            "target_mean": reading.target_mean,
                            "detected": reading.detected,
                            "full_probability": probe.unchanged[0].score,
                            "full_target": probe.unchanged[0].target_mean,
                        }
                    )
    return keyed(scan, rows)


def enough_mm(rows: pd.DataFrame, *, share: float = FULL) -> pd.DataFrame:
    """Per lesion, fill and normalisation: the distance from which on the score stays at `share` of the full score.

    NaN where the largest distance tried does not suffice.
    """
    out = []
    keys = ["subject", "scan", "lesion", "fill", "frozen"]
    for key, curve in rows.groupby(keys, dropna=False, sort=False):
        ordered = curve.sort_values("distance_mm")
        reached = (ordered["probability_mean"] >= share * ordered["full_probability"]).to_numpy(dtype=bool)
        stays = np.logical_and.accumulate(reached[::-1])[::-1]
        distance = float(ordered["distance_mm"].to_numpy()[np.argmax(stays)]) if stays.any() else np.nan
        out.append(dict(zip(keys, key, strict=True)) | {"enough_mm": distance, "outcome": ordered["outcome"].iloc[0]})
    return pd.DataFrame(out)


def context_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """Curves of score and detection against distance, and the distance that suffices, patient by patient."""
    detected = rows[rows["full_probability"] > 0.05]
    if not len(detected):
        return Finding("No lesion with a probability above 0.05 on the full scan: there is no context to measure.")
    enough = enough_mm(detected)
    lines: list[Line | Bar] = []
    detections: list[Line | Bar] = []
    suffices: list[Violin] = []
    table = []
    for (fill, frozen), part in detected.groupby(["fill", "frozen"], sort=False):
        label = f"{fill}{' (frozen)' if frozen else ''}"
        for column, marks in (("probability_mean", lines), ("detected", detections)):
            x, profile = _profile(part, column, rng)
            low, high = ([getattr(one, side) for one in profile] for side in ("low", "high"))
            marks.append(Line(label, x, [one.estimate for one in profile], low, high))
        chosen = enough[(enough["fill"] == fill) & (enough["frozen"] == frozen)]
        interval = mean_over_patients(
            chosen["enough_mm"].to_numpy(dtype=float), chosen["subject"].to_numpy(dtype=str), rng=rng
        )
        missed = int(chosen["enough_mm"].isna().sum())
        suffices.append(
            Violin(
                label,
                chosen["enough_mm"].to_numpy(dtype=float),
                series_colour(len(suffices)),
                lesions_of(chosen),
                len(chosen),
            )
        )
        table.append({"fill": fill, "frozen": frozen, "mm": interval, "never": missed, "lesions": len(chosen)})
    if "zero" in set(detected["fill"]):
        lines.append(Line("published U-Net (digitised)", PUBLISHED_MM, PUBLISHED_SCORE, reference=True))
        steps = PUBLISHED_MM[: len(PUBLISHED_DETECTED)]
        detections.append(Line("published U-Net (digitised)", steps, PUBLISHED_DETECTED, reference=True))
    chart = Chart(
        "context",
        "How much of the surroundings must the network see to find a lesion?",
        (
            Panel("how sure it is", "tissue left around the lesion (mm)", "mean probability over the lesion", lines),
            Panel("whether it finds it", "tissue left around the lesion (mm)", "lesions detected (share)", detections),
            Panel(f"what keeps {FULL:.0%} of the probability", "", "distance needed (mm)", suffices),
        ),
        "Everything farther away is replaced (zero, healthy tissue, blur); frozen: with the whole scan's normalisation "
        "statistics. Bands: 95 % over patients (six or more); right: n of the lesions "
        "reached it within the distances tried. The published curve was read off a figure: lesions "
        "of 91-119 voxels, zero fill, distance in 18-neighbour dilation steps (up to 1.41 mm each).",
        sample=patients_note(detected),
    )
    sentences, tried = [f"{patients_note(detected)}."], float(detected["distance_mm"].max())
    for row in table:
        one: Interval = row["mm"]
        what = f"With {row['fill']} fill{' and frozen statistics' if row['frozen'] else ''}"
        if np.isnan(one.estimate):
            sentences.append(f"{what} no lesion reached {FULL:.0%} of its full score within the distances tried.")
            continue
        reached = row["lesions"] - row["never"]
        who = f" by the {reached} of {row['lesions']} lesions that reached it; the others need more than {tried:g} mm"
        sentences.append(
            f"{what}, {FULL:.0%} of the full score was kept from {one} mm on{who if row['never'] else ''}."
        )
    sentences.append("Published: 7 mm needed by the U-Net, 7-15 mm over three networks, with zero fill.")
    summary = pd.DataFrame(
        [
            {
                "fill": row["fill"],
                "frozen": row["frozen"],
                "enough_mm": row["mm"].estimate,
                "low": row["mm"].low,
                "high": row["mm"].high,
                "never": row["never"],
                "lesions": row["lesions"],
                "note": row["mm"].note,
            }
            for row in table
        ]
    )
    return Finding(" ".join(sentences), (chart,), {"context_enough": summary, "context_enough_per_lesion": enough})


def _profile(part: pd.DataFrame, column: str, rng: np.random.Generator) -> tuple[list[float], list[Interval]]:
    wide = part.pivot_table(index=["subject", "scan", "lesion"], columns="distance_mm", values=column, aggfunc="mean")
    patients = wide.index.get_level_values("subject").to_numpy(dtype=str)
    x = [float(d) for d in wide.columns]
    return x, profile_over_patients(wide.to_numpy(dtype=float), patients, rng=rng, bounds=(0.0, 1.0))


def _distance(scan: Scan, mask: np.ndarray, step: Step, reach_mm: float) -> np.ndarray:
    """How far every voxel is from Omega: mm to its border (infinite beyond `reach_mm`), or dilation steps."""
    if step == "euclidean":
        return distance_to_mm(mask, scan.sizes_mm, reach_mm=reach_mm)
    structure = ndimage.generate_binary_structure(3, 2)
    steps = np.where(mask, 0.0, np.inf)
    grown = mask
    for n in range(1, int(DISTANCES_MM[-1]) + 1):
        wider = ndimage.binary_dilation(grown, structure=structure)
        steps[wider & ~grown] = n
        grown = wider
    return steps


def _background(probe: Probe, fill: Fill, *, rng: np.random.Generator) -> Tensor:
    """What everything beyond the distance is replaced by."""
    if fill == "zero":
        return torch.zeros_like(probe.base)
    if fill == "tissue":
        return probe.tissue_everywhere(rng=rng)
    without = probe.inpainted(probe.lesion(), rng=None).cpu().numpy()
    blurred = ndimage.gaussian_filter(without, (0.0, *(BLUR_MM / size for size in probe.placement.sizes_mm)))
    return torch.from_numpy(np.where(probe.head, blurred, 0.0).astype(without.dtype)).to(probe.base)


EXPERIMENT = Experiment(
    name="context",
    question="How far around a lesion must the network see to find it?",
    rows_fn=context_rows,
    group_fn=context_finding,
    defaults={"distances_mm": DISTANCES_MM, "fills": FILLS, "frozen": (False, True), "step": "euclidean"},
)
