"""The published error identification, with its own recipe: how well radiomics of the FLAIR map alone find false lesions.

L1 logistic regression with C = 1 and fixed class weights on standardised features; a lesion is called false where that is
likelier than not. Published figures resample lesions as if they were independent; an interval over patients stands beside them.
Two defects are not repeated: the scaler is not fitted again on the lesions that are judged, and no patient is on both sides.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from lesionwise.errors import InputError
from lesionwise.stats.bootstrap import Interval, interval_from_draws

CLASS_WEIGHTS = {0: 0.29, 1: 0.71}
"""Of true (0) and false lesions (1)."""
PENALTY = 1.0
RESAMPLES = 1000


@dataclass(frozen=True)
class Published:
    """F1 and PPV of the predicted lesions before and after those called false are dropped; `lesions` are 95 % percentiles over
    resampled lesions, as published, `patients` the honest intervals."""

    before: dict[str, float]
    after: dict[str, Interval]
    lesions: dict[str, tuple[float, float]]
    false_removed: float
    true_lost: float

    def markdown(self) -> str:
        """A table as it stands in docs/triage-evidence.md."""
        lines = [
            "| published recipe | before | after, over patients | after, over lesions (as published) |",
            "|---|---|---|---|",
        ]
        for name, interval in self.after.items():
            low, high = self.lesions[name]
            lines.append(f"| {name} | {self.before[name]:.3f} | {interval} | [{low:.3g}, {high:.3g}] |")
        lines.append("")
        lines.append(
            f"{100 * self.false_removed:.0f} % of the false lesions removed, {100 * self.true_lost:.0f} % of the true ones lost."
        )
        return "\n".join(lines) + "\n"


def published_recipe(
    fitted: pd.DataFrame, held_out: pd.DataFrame, counts: pd.DataFrame, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> Published:
    """Fits on one feature table (`triage.cohort`, with radiomics) and judges another's patients.

    `counts` (`cohort.outcome_counts`) holds the missed lesions of every scan. Raises InputError without radiomics of the first
    channel, or if a patient is in both tables.
    """
    names = [name for name in fitted.columns if name.startswith("radiomics_")]
    if not names:
        raise InputError("Expected radiomic features in the table (--radiomics), found none.")
    both = set(fitted["subject"].astype(str)) & set(held_out["subject"].astype(str))
    if both:
        raise InputError(
            f"Expected other patients to judge than those fitted on, found {sorted(both)[0]} in both tables."
        )
    train, rows = _judged(fitted), _judged(held_out)
    called = _called(train, rows, names)
    false, weight = (rows["outcome"] == "FP").to_numpy(), rows["weight"].to_numpy(dtype=float)
    patients = rows["subject"].astype(str).to_numpy(dtype=str)
    missed = counts.groupby(counts["subject"].astype(str))["FN"].sum()
    kept = {name: ~called for name in ("F1", "PPV")}
    everything = np.ones(len(rows), dtype=bool)
    rng = np.random.default_rng(seed)
    all_rows, names_of = np.arange(len(rows)), np.unique(np.concatenate([patients, missed.index.to_numpy(dtype=str)]))
    total = float(missed.sum())
    members = {name: np.flatnonzero(patients == name) for name in names_of}

    def value(picked: np.ndarray, misses: float, keep: Bool[np.ndarray, " rows"], measure: str) -> float:
        return _measure(weight[picked], false[picked], keep[picked], misses, measure)

    after, lesions = {}, {}
    picks = [rng.integers(0, len(names_of), len(names_of)) for _ in range(n_resamples)]
    for measure, keep in kept.items():
        whole = value(all_rows, total, keep, measure)
        by_patient = [
            value(
                np.concatenate([members[names_of[n]] for n in pick]),
                float(sum(missed.get(names_of[n], 0.0) for n in pick)), keep, measure,
            )
            for pick in picks
        ]  # fmt: skip
        after[measure] = interval_from_draws(whole, np.array(by_patient), n_patients=len(names_of), bounds=(0.0, 1.0))
        by_lesion = [value(rng.integers(0, len(rows), len(rows)), total, keep, measure) for _ in range(n_resamples)]
        low, high = np.nanquantile(by_lesion, [0.025, 0.975])
        lesions[measure] = (float(low), float(high))
    before = {measure: value(all_rows, total, everything, measure) for measure in kept}
    w_true, w_false = weight * ~false, weight * false
    return Published(
        before, after, lesions, _ratio(w_false[called].sum(), w_false.sum()), _ratio(w_true[called].sum(), w_true.sum())
    )


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """Predicted lesions with a map."""
    names = [name for name in table.columns if name.startswith("radiomics_")]
    return table[table["outcome"].isin(("TP", "US", "FP")) & table[names].notna().any(axis=1)]


def _called(train: pd.DataFrame, rows: pd.DataFrame, names: list[str]) -> Bool[np.ndarray, " rows"]:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    learner = LogisticRegression(
        C=PENALTY, l1_ratio=1.0, solver="liblinear", class_weight=CLASS_WEIGHTS, max_iter=1000, random_state=0
    )
    model = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), learner)
    model.fit(_table(train, names), (train["outcome"] == "FP").to_numpy().astype(int))
    return model.predict(_table(rows, names)) == 1


def _table(rows: pd.DataFrame, names: list[str]) -> Float[np.ndarray, "rows features"]:
    return rows.reindex(columns=names).to_numpy(dtype=float)


def _measure(weight: np.ndarray, false: np.ndarray, keep: np.ndarray, missed: float, measure: str) -> float:
    """F1 or PPV of what is kept; lost true lesions count as missed."""
    true, wrong = float(weight[~false & keep].sum()), float(weight[false & keep].sum())
    if measure == "PPV":
        return _ratio(true, true + wrong)
    lost = float(weight[~false & ~keep].sum())
    return _ratio(2 * true, 2 * true + wrong + missed + lost)


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole > 0 else float("nan")
