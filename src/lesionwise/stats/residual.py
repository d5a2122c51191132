"""What is left of a feature once size, probability and uncertainty are accounted for."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from lesionwise.stats.bootstrap import Interval, cluster_bootstrap
from lesionwise.stats.effects import auc


@dataclass(frozen=True)
class LeftOver:
    """How well a label is told with the covariates alone, with the feature too, and the difference.

    AUCs are of scores predicted for patients that the model has not seen. `alone` is the feature by itself. `difference`
    carries a patient-bootstrap interval: where it excludes 0, the feature says something that the covariates do not.
    """

    alone: float
    without: float
    together: float
    difference: Interval
    n_rows: int
    note: str = ""


def what_is_left(
    frame: pd.DataFrame,
    *,
    label: str,
    feature: str | Sequence[str],
    covariates: Sequence[str],
    patient: str,
    rng: np.random.Generator,
    n_folds: int = 5,
    n_resamples: int = 1000,
) -> LeftOver:
    """Tells `label` (True / False) by logistic regression on covariates, with and without `feature`.

    Folds hold whole patients; columns are standardised on the training patients only. Rows with a missing value are
    left out. Where either label has too few patients to be in every fold, AUCs are NaN and the note says so.
    """
    features = [feature] if isinstance(feature, str) else list(feature)
    columns = [*features, *covariates]
    rows = frame[[label, patient, *columns]].dropna()
    truth, names = rows[label].to_numpy(dtype=bool), rows[patient].astype(str).to_numpy(dtype=str)
    nothing = LeftOver(np.nan, np.nan, np.nan, Interval(np.nan, np.nan, np.nan, 0), len(rows))
    holders = [len(np.unique(names[truth == value])) for value in (True, False)]
    folds = min(n_folds, len(np.unique(names)))
    if min(holders) < 2 or folds < 2:
        note = f"labels are held by {holders[0]} and {holders[1]} patients; two of each are needed"
        return LeftOver(np.nan, np.nan, np.nan, nothing.difference, len(rows), note)
    scores = {
        name: _unseen(rows[chosen].to_numpy(dtype=float), truth, names, folds=folds)
        for name, chosen in (("alone", features), ("without", list(covariates)), ("together", columns))
    }
    each = {name: _pooled_auc(score, truth) for name, score in scores.items()}
    difference = cluster_bootstrap(
        names,
        lambda picked: (
            _pooled_auc(scores["together"][picked], truth[picked])
            - _pooled_auc(scores["without"][picked], truth[picked])
        ),
        rng=rng,
        n_resamples=n_resamples,
    )
    return LeftOver(each["alone"], each["without"], each["together"], difference, len(rows), difference.note)


def _unseen(
    x: Float[np.ndarray, "rows columns"], truth: Bool[np.ndarray, " rows"], patients: np.ndarray, *, folds: int
) -> Float[np.ndarray, " rows"]:
    """Log-odds for each row from a model that has not seen its patient; NaN where training rows have one label only."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    out = np.full(len(x), np.nan)
    for train, test in GroupKFold(folds).split(x, truth, patients):
        if truth[train].all() or not truth[train].any():
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # separable data: the ranking is what counts
            model.fit(x[train], truth[train])
        out[test] = model.decision_function(x[test])
    return out


def _pooled_auc(score: np.ndarray, truth: np.ndarray) -> float:
    known = np.isfinite(score)
    return auc(score[known & truth], score[known & ~truth])
