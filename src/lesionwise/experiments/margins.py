"""How far lesions are from being decided otherwise, by outcome (minimal counterfactuals)."""

from typing import Any

import numpy as np
import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.charts.chart import Bar, Chart, Panel
from lesionwise.charts.palette import outcome_style
from lesionwise.experiments.experiment import Experiment, Finding, keyed, mean_of, patients_note
from lesionwise.why.lesions import Effort, why_scan

_SAYS = {
    "TP": "true lesions are lost below",
    "FP": "invented ones disappear below",
    "FN": "missed ones would be found from",
}


def margin_rows(scan: Scan, *, evaluations: int = 0) -> pd.DataFrame:
    """One row per lesion: the columns of the why table (`why.columns`), Shapley values if `evaluations` are granted."""
    rows: list[dict[str, Any]] = []
    for record in why_scan(scan, effort=Effort(evaluations)).to_dict(orient="records"):
        rows.append({str(key): value for key, value in record.items()})
    return keyed(scan, rows)


def margin_finding(rows: pd.DataFrame, rng: np.random.Generator) -> Finding:
    """The margin of the contrast by outcome, patient-level, and how many lesions do not flip at all."""
    if not len(rows):
        return Finding("No lesion to ask about.")
    channels = [
        name.removeprefix("margin_").removesuffix("_end")
        for name in rows
        if name.startswith("margin_") and name.endswith("_end") and name not in ("margin_all_end", "margin_size_end")
    ]
    sentences, panels, table = [f"{patients_note(rows)}."], [], []
    for dial, what in (
        ("all", "contrast on all channels"),
        *((name, f"contrast on {name} alone") for name in channels),
    ):
        bars = []
        for outcome, words in _SAYS.items():
            part = rows[rows["outcome"] == outcome]
            flipping = part[part[f"margin_{dial}"].notna()]
            if not len(part):
                continue
            never = len(part) - len(flipping)
            table.append({"dial": dial, "outcome": outcome, "lesions": len(part), "never": never})
            if not len(flipping):
                sentences.append(f"With the {what} no {outcome} lesion of {len(part)} is decided otherwise.")
                continue
            one = mean_of(flipping, f"margin_{dial}", rng)
            table[-1] |= {"margin": one.estimate, "low": one.low, "high": one.high}
            bars.append(
                Bar(f"{outcome} (n = {len(flipping)})", one.estimate, one.low, one.high, outcome_style(outcome).colour)
            )
            left = f" ({never} of {len(part)} never within the range tried)" if never else ""
            sentences.append(f"On the {what}, {words} {one} times their own contrast{left}.")
        if bars:
            panels.append(Panel(what, "times the lesion's own contrast", "", bars, horizontal=True))
    flips, verified = int(rows["why_flips"].sum()), int(rows["why_verified"].sum())
    sentences.append(f"{verified} of {flips} flips hold when the changed scan is predicted by ordinary passes.")
    charts = (
        Chart(
            "margins",
            "How far is each lesion from being decided otherwise?",
            tuple(panels),
            "Contrast, in times the lesion's own against the healthy tissue painted in its place, at which the decision "
            "(threshold, connectivity, smallest size) flips. Lines: 95 % over patients (six or more).",
            sample=patients_note(rows),
        ),
    )
    return Finding(" ".join(sentences), charts if panels else (), {"margins": pd.DataFrame(table)})


EXPERIMENT = Experiment(
    name="margins",
    question="What would have changed the network's mind about a lesion?",
    rows_fn=margin_rows,
    group_fn=margin_finding,
    defaults={"evaluations": 0},
)
