"""How well the list of likely misses is ordered: missed lesions among the first places that a reader looks at."""

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np
import pandas as pd

from lesionwise.stats.bootstrap import mean_interval
from lesionwise.triage.candidates import CandidateModel

FIRST = 10
"""Places that a reader looks at; `apply` lists as many."""

ORDERS = ("model", "probability_max", "volume_mm3", "random")
"""By the fitted candidate model, by the highest probability (near the surface last), by size, and at random (expected)."""


def found_first(
    candidates: pd.DataFrame, counts: pd.DataFrame, *, model: CandidateModel | None = None, first: int = FIRST
) -> pd.DataFrame:
    """Missed lesions among the first `first` candidates of every scan, by each of `ORDERS`.

    A row per scan: subject, scan, missed (FN of the scan, `cohort.outcome_counts`), reachable (missed lesions on which
    some candidate lies), candidates, and the number found by each order; random is its expectation over all orders.
    A lesion on which several candidates lie counts once.
    """
    rows = []
    for scan in counts.to_dict(orient="records"):
        here = candidates[candidates["scan"] == scan["scan"]]
        missed = here["missed"].to_numpy(dtype=float)
        row: dict[str, object] = {"subject": scan["subject"], "scan": scan["scan"], "missed": int(scan["FN"])}
        row |= {"reachable": len(_lesions(missed)), "candidates": len(here)}
        for order in ORDERS[:-1]:
            if order == "model" and model is None:
                continue
            key = (
                -model.probability(here)
                if order == "model" and model is not None
                else -here[order].to_numpy(dtype=float)
            )
            keys = [key, _shallow(here)] if order == "probability_max" else [key]
            row[order] = len(_lesions(missed[np.lexsort(keys)][:first]))
        row["random"] = _expected(missed, first)
        rows.append(row)
    return pd.DataFrame(rows)


def compare_orders(found: pd.DataFrame, *, n_resamples: int = 1000, seed: int = 0) -> dict[str, object]:
    """Totals, and means per patient with intervals; differences to a random order are paired by patient."""
    by_patient = found.groupby("subject").mean(numeric_only=True)
    orders = [name for name in ORDERS if name in found]
    facts: dict[str, object] = {
        "scans": len(found),
        "patients": len(by_patient),
        **{f"total_{name}": float(found[name].sum()) for name in ("missed", "reachable", "candidates", *orders)},
    }
    pairs: Mapping[str, Sequence[str]] = {
        **{name: (name,) for name in orders},
        **{f"{name} - random": (name, "random") for name in orders if name != "random"},
        **({"model - probability_max": ("model", "probability_max")} if "model" in orders else {}),
    }
    for name, (one, *other) in pairs.items():
        values = by_patient[one].to_numpy(dtype=float) - (by_patient[other[0]].to_numpy(dtype=float) if other else 0.0)
        facts[name] = str(mean_interval(values, rng=np.random.default_rng(seed), n_resamples=n_resamples))
    return facts


def _shallow(candidates: pd.DataFrame) -> np.ndarray:
    """1 near the brain's surface: ordered last by probability, as `find_candidates` does."""
    there = "near_surface" in candidates
    return candidates["near_surface"].to_numpy(dtype=float) if there else np.zeros(len(candidates))


def _lesions(missed: np.ndarray) -> set[int]:
    """The missed lesions among candidates; nan is a candidate on none."""
    return {int(label) for label in missed[np.isfinite(missed)]}


def _expected(missed: np.ndarray, first: int) -> float:
    """Expected number of lesions found among `first` candidates in random order: sum of 1 - C(n - k, f) / C(n, f)."""
    n, known = len(missed), missed[np.isfinite(missed)]
    f = min(first, n)
    on = np.unique(known, return_counts=True)[1]
    return float(sum(1.0 - comb(n - int(k), f) / comb(n, f) for k in on))
