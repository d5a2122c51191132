"""What the context distance means for the architecture: quality against the window, beside how far the network looks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.attribution import Gradient
from lesionwise.charts.chart import Chart, Line, Panel
from lesionwise.experiments.context import context_rows, enough_mm
from lesionwise.experiments.experiment import Experiment, Finding, keyed, mean_of, patients_note
from lesionwise.instances.components import label_components
from lesionwise.metrics import lesion_counts, normalised_dice
from lesionwise.stats import Interval
from lesionwise.windows import WindowGrid, predict, probability_on_scan

WINDOWS_VOX = (48, 64, 80, 96, 112, 128)
CONTEXT_MM = (0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
ERF_SHARE = 0.95
MOST_LESIONS = 10


def architecture_rows(
    scan: Scan, *, windows_vox: Sequence[int] = WINDOWS_VOX, context_mm: Sequence[float] = CONTEXT_MM
) -> pd.DataFrame:
    """One row per prediction window (cubes): nDSC and lesion TPR of the scan when predicted with it.

    Windows that the network cannot take (its strides do not divide them) are named in `note`. The same in all rows of a
    scan: `trained_vox`, the edge of the window that the model's description names (the patch it was trained on, for models
    trained here); `erf_mm`, the mean radius around (at most ten) lesions that holds 95 % of their gradients' mass, the
    effective receptive field as used; `context_mm`, the mean distance from which on healthy tissue in place of everything
    farther away leaves 95 % of the score, over those of them that reach it (`context_lesions` of `lesions`). Without a
    reference only these can be given.
    """
    reference = scan.case.reference
    facts: dict[str, Any] = {"trained_vox": int(min(scan.model.spec.window)), "erf_mm": _used_radius_mm(scan)}
    facts |= _context(scan, context_mm)
    rows: list[dict[str, Any]] = []
    for size in windows_vox:
        row: dict[str, Any] = {"window_vox": int(size), "ndsc": np.nan, "tpr": np.nan, **facts, "note": ""}
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
    """nDSC and TPR against the window, over patients, beside trained patch, context distance and effective receptive field."""
    known = {
        (column, int(size)): mean_of(part, column, rng)
        for column in SCORES
        for size, part in rows.groupby("window_vox")
        if part[column].notna().any()
    }
    lines = []
    for column, label in SCORES.items():
        x = [float(size) for name, size in known if name == column]
        points = [one for (name, _), one in known.items() if name == column]
        if x:
            y, low, high = ([getattr(one, side) for one in points] for side in ("estimate", "low", "high"))
            lines.append(Line(label, x, y, low, high, markers=True))
    scans = rows.drop_duplicates("scan")
    facts = {name: mean_of(scans, name, rng) for name in ("erf_mm", "context_mm")}
    trained = int(rows["trained_vox"].iloc[0])
    if not lines:
        return Finding(
            f"No scan had a reference: quality against the window cannot be measured. {_reach(scans, facts)}"
        )
    sentences = [f"{patients_note(rows)}."]
    for column, label in SCORES.items():
        own = {size: one for (name, size), one in known.items() if name == column}
        if own:
            best = max(own, key=lambda size: own[size].estimate)
            sentences.append(
                f"{label}: {'; '.join(f'{one} with {size} voxels' for size, one in own.items())}; best {best}."
            )
    sentences.append(f"The model's own window is {trained} voxels. {_reach(scans, facts)}")
    sentences.append("Windows are those of prediction; the network was trained with one patch size.")
    panel = Panel(
        "",
        "edge of the prediction window (voxels)",
        "score",
        lines,
        y_limits=(0.0, 1.0),
        x_marks=_marks(trained, facts),
    )
    chart = Chart(
        "architecture",
        "How large must the prediction window be?",
        (panel,),
        "nDSC: normalised Dice; TPR: lesions of the reference that are found. Dotted: the model's own window; twice the distance "
        "that holds 95 % of the gradient (ERF) and twice the context distance, as a window of that edge would hold them on both "
        "sides of a lesion. Bands: 95 % over patients (six or more).",
        sample=patients_note(rows),
    )
    each = rows.groupby(["subject", "window_vox"])[list(SCORES)].mean()
    table = each.groupby("window_vox").mean().reset_index()
    return Finding(
        " ".join(sentences), (chart,), {"architecture": table, "architecture_network": _network(rows, facts)}
    )


SCORES = {"ndsc": "nDSC", "tpr": "lesion TPR"}


def _network(rows: pd.DataFrame, facts: dict[str, Interval]) -> pd.DataFrame:
    """One line for the network: trained patch, quality with its own window, context distance, effective receptive field."""
    trained = int(rows["trained_vox"].iloc[0])
    own = rows[rows["window_vox"] == trained].groupby("subject")[list(SCORES)].mean().mean()
    line: dict[str, Any] = {"model": rows["model"].iloc[0], "trained_vox": trained}
    line |= {f"{name}_own_window": own[name] for name in SCORES}
    scans = rows.drop_duplicates("scan")
    line |= {name: one.estimate for name, one in facts.items()}
    line |= {name: int(scans[name].sum()) for name in ("context_lesions", "lesions")}
    return pd.DataFrame([line | {"patients": rows["subject"].nunique()}])


def _reach(scans: pd.DataFrame, facts: dict[str, Interval]) -> str:
    parts = []
    if np.isfinite(facts["erf_mm"].estimate):
        parts.append(f"Gradients hold {ERF_SHARE:.0%} of their mass within {facts['erf_mm']} mm of a lesion.")
    reached, asked = int(scans["context_lesions"].sum()), int(scans["lesions"].sum())
    if np.isfinite(facts["context_mm"].estimate):
        parts.append(
            f"With healthy tissue farther away, 95 % of the probability is kept from {facts['context_mm']} mm on "
            f"({reached} of {asked} lesions reach it)."
        )
    return " ".join(parts)


def _marks(trained: int, facts: dict[str, Interval]) -> list[tuple[float, str]]:
    marks = [(float(trained), "own window")]
    for name, word in (("erf_mm", "2 x ERF"), ("context_mm", "2 x context")):
        if np.isfinite(facts[name].estimate):
            marks.append((2.0 * facts[name].estimate, word))
    return marks


def _context(scan: Scan, distances_mm: Sequence[float]) -> dict[str, Any]:
    """The distance that suffices, over at most ten lesions that the network sees."""
    chosen = tuple(one.label for one in scan.chosen[:MOST_LESIONS])
    if not chosen or not len(distances_mm):
        return {"context_mm": np.nan, "context_lesions": 0, "lesions": len(chosen)}
    rows = context_rows(replace(scan, wanted=chosen), distances_mm=distances_mm, fills=("tissue",), frozen=(False,))
    seen = rows[rows["full_probability"] > 0.05]
    enough = enough_mm(seen)["enough_mm"] if len(seen) else pd.Series(dtype=float)
    mean = float(enough.mean()) if enough.notna().any() else np.nan
    return {"context_mm": mean, "context_lesions": int(enough.notna().sum()), "lesions": len(enough)}


def _used_radius_mm(scan: Scan) -> float:
    """Mean over lesions of the distance from Omega within which 95 % of the gradient's mass lies."""
    radii = []
    chosen = scan.chosen[:MOST_LESIONS]
    for instance, saliency in zip(chosen, scan.attribute(chosen, Gradient()) if chosen else [], strict=True):
        box = saliency.box.union(scan.around(instance, 0.0))
        distance = scan.distance_mm(instance, box=box)[saliency.box.relative_to(box).slices]
        distance = np.maximum(distance, 0.0).ravel()
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
    defaults={"windows_vox": WINDOWS_VOX, "context_mm": CONTEXT_MM},
)
