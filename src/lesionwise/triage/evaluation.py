"""One fixed triage model on scans with references: what it removes, what it costs, what its list of misses finds.

Nothing is fitted or tuned here: the model is judged as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.cohort import CohortRunner
from lesionwise.models.reference import ModelRef
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.stats.effects import weighted_auc
from lesionwise.triage.cohort import Extras, measure_cohort, outcome_counts
from lesionwise.triage.evidence import Evidence, evaluate
from lesionwise.triage.misses import compare_orders, found_first
from lesionwise.triage.model import TriageModel
from lesionwise.triage.training import candidate_table


@dataclass(frozen=True, eq=False)
class TriageEvaluation:
    """`evidence` over all patients, `scans` with a row per scan, `misses` the orders of the list of likely misses."""

    evidence: Evidence
    scans: pd.DataFrame
    misses: Mapping[str, object]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; without intervals below six patients."""
        return {**self.evidence.as_dict(), "likely_misses": dict(self.misses)}

    def markdown(self) -> str:
        """Both tables as they stand in docs/triage.md."""
        columns = {
            "scan": "scan",
            "true": "TP",
            "false": "FP",
            "missed": "FN",
            "not_judged": "not judged",
            "false_removed": "FP removed",
            "true_lost": "TP lost",
            "auc": "AUC",
            "ppv_before": "PPV",
            "ppv_after": "after",
            "f1_before": "F1",
            "f1_after": "after",
            "largest_called_mm3": "largest called false, mm3",
        }
        lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
        for row in self.scans.to_dict(orient="records"):
            lines.append("| " + " | ".join(_cell(row[name]) for name in columns) + " |")
        orders = ["| order | " + "mean per patient |", "|---|---|"]
        orders += [f"| {name} | {value} |" for name, value in self.misses.items()]
        return "\n".join([self.evidence.markdown(), *lines, "", *orders]) + "\n"


def evaluate_output(
    out: Path,
    model: TriageModel,
    *,
    segmenter: AbstractSegmenter | ModelRef | None = None,
    max_loss: float = 0.05,
    n_resamples: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    runner: CohortRunner | None = None,
) -> TriageEvaluation:
    """Judges a folder's predicted lesions by one model; all of them where it needs no maps, else the explained ones.

    Raises InputError without finished scans, or if the network must be asked and is not given.
    """
    extras = Extras.needed(model.families)
    runner = runner or CohortRunner()
    every = not model.needs_maps and not extras.asks
    lesions = measure_cohort(out, extras=extras, model=segmenter, every=every, device=device, runner=runner)
    candidates = candidate_table(out, measured=model.candidates is not None, runner=runner)
    counts = outcome_counts(out)
    counts = counts[~counts["scan"].isin(list(runner.left_out))].reset_index(drop=True)
    evidence = evaluate({"model": model}, lesions, counts, max_loss=max_loss, n_resamples=n_resamples, seed=seed)
    found = found_first(candidates, counts, model=model.candidates)
    misses = compare_orders(found, n_resamples=n_resamples, seed=seed)
    scans = scan_table(model, lesions, counts).merge(found.drop(columns=["subject", "missed"]), on="scan")
    return TriageEvaluation(evidence, scans, misses)


def scan_table(model: TriageModel, lesions: pd.DataFrame, counts: pd.DataFrame) -> pd.DataFrame:
    """What one model does to every scan; a share of nothing is nan.

    true, false and missed count all lesions of the scan; not_judged those whose size the model does not know.
    largest_called_mm3 is the volume of the largest lesion called false, 0 if none is.
    """
    rows = []
    for scan in counts.to_dict(orient="records"):
        here = lesions[(lesions["scan"] == scan["scan"]) & lesions["outcome"].isin(("TP", "US", "FP"))]
        p, weight = model.probability(model.table(here)), here["weight"].to_numpy(dtype=float)
        volume, wrong = here["volume_mm3"].to_numpy(dtype=float), (here["outcome"] == "FP").to_numpy()
        known = np.array([model.knows(v) for v in volume], dtype=bool)
        called = (p >= model.threshold) & known
        w_true, w_false = weight * ~wrong, weight * wrong
        true, false, missed = int(scan["TP"]), int(scan["FP"]), int(scan["FN"])
        lost, removed = float(w_true[called].sum()), float(w_false[called].sum())
        rows.append(
            {
                "scan": scan["scan"],
                "subject": scan["subject"],
                "true": true,
                "false": false,
                "missed": missed,
                "not_judged": float(weight[~known].sum()),
                "false_removed": removed,
                "true_lost": lost,
                "auc": weighted_auc(p, w_true, w_false) if len(here) else float("nan"),
                "ppv_before": _ratio(true, true + false),
                "ppv_after": _ratio(true - lost, true - lost + false - removed),
                "f1_before": _ratio(2 * true, 2 * true + false + missed),
                "f1_after": _ratio(2 * (true - lost), 2 * true - lost + false - removed + missed),
                "largest_called_mm3": float(volume[called].max()) if called.any() else 0.0,
            }
        )
    return pd.DataFrame(rows)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "n/a" if np.isnan(value) else (f"{value:.0f}" if value == int(value) else f"{value:.3g}")
    return str(value)
