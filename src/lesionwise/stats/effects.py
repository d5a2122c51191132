"""Effect sizes: how often one group exceeds another (AUC), and how far repeated measurements agree (ICC)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit
from scipy.stats import rankdata

from lesionwise.errors import InputError
from lesionwise.stats.bootstrap import MIN_PATIENTS, TOO_FEW, Interval, interval_from_draws

Group = Float[np.ndarray, " members"]


def auc(first: Float[np.ndarray, " n1"], second: Float[np.ndarray, " n2"]) -> float:
    """U / (n1 n2): probability that a member of `first` exceeds one of `second`, ties half. 0.5 = no difference.

    NaN if either group is empty.

    >>> import numpy as np
    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    n1, n2 = len(first), len(second)
    if n1 == 0 or n2 == 0:
        return float("nan")
    ranks = rankdata(np.concatenate([first, second]))
    return float((ranks[:n1].sum() - n1 * (n1 + 1) / 2.0) / (n1 * n2))


def auc_interval(
    first: Float[np.ndarray, " n1"],
    second: Float[np.ndarray, " n2"],
    *,
    first_patients: Sequence[object] | np.ndarray,
    second_patients: Sequence[object] | np.ndarray,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
    method: Literal["studentized", "percentile"] = "studentized",
) -> Interval:
    """AUC over all lesions, with an interval from a bootstrap in which patients, not lesions, are drawn.

    `studentized`: each resample's log-odds of the AUC is divided by its own standard error (sums over patients of their
    influence), which holds its level with some tens of patients where percentiles do not. Where too many resamples
    separate the groups completely, percentiles are used. The wins of every patient over every other are counted once; a
    resample then only reweights patients, so that thousands cost less than a second.
    """
    names = np.unique(np.concatenate([np.asarray(p).astype(str) for p in (first_patients, second_patients)]))
    wins, n1, n2 = _wins(first, second, np.asarray(first_patients), np.asarray(second_patients), names)
    estimate = auc(first, second)
    n = len(names)
    if n < MIN_PATIENTS:
        return Interval(estimate, np.nan, np.nan, n, level, TOO_FEW)
    weights = rng.multinomial(n, np.full(n, 1.0 / n), size=n_resamples).astype(float)
    draws, errors = _weighted_auc(weights, wins, n1, n2)
    left_out = _weighted_auc(1.0 - np.eye(n), wins, n1, n2)[0]
    usable = (draws > 0) & (draws < 1) & (errors > 0)
    inner = np.append(left_out, estimate)
    if method == "percentile" or not ((inner > 0) & (inner < 1)).all() or usable.mean() < 0.9:
        return interval_from_draws(estimate, draws, n_patients=n, level=level)
    # The jackknife's standard error is a little larger than that of the influences: unequal patients need it.
    own = float(np.sqrt((n - 1.0) * np.var(logit(left_out))))
    slope = draws[usable] * (1.0 - draws[usable])
    t = (logit(draws[usable]) - logit(estimate)) / (errors[usable] / slope)
    high, low = np.quantile(t, [(1.0 - level) / 2.0, (1.0 + level) / 2.0]) * own
    return Interval(estimate, float(expit(logit(estimate) - low)), float(expit(logit(estimate) - high)), n, level)


def icc_agreement(ratings: Float[np.ndarray, "subjects raters"]) -> float:
    """ICC(2,1), absolute agreement of single measurements, raters drawn at random (Shrout1979). 1 = identical."""
    between, residual, raters = _mean_squares(ratings)
    n, k = ratings.shape
    denominator = between + (k - 1) * residual + k * (raters - residual) / n
    return float((between - residual) / denominator) if denominator > 0 else float("nan")


def icc_consistency(ratings: Float[np.ndarray, "subjects raters"]) -> float:
    """ICC(3,1), consistency of single measurements, raters fixed: constant offsets between them do not count."""
    between, residual, _ = _mean_squares(ratings)
    k = ratings.shape[1]
    denominator = between + (k - 1) * residual
    return float((between - residual) / denominator) if denominator > 0 else float("nan")


def _wins(
    first: np.ndarray, second: np.ndarray, first_patients: np.ndarray, second_patients: np.ndarray, names: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wins (ties half) of each patient's `first` over each patient's `second`, and the group sizes per patient."""
    rows = np.searchsorted(names, first_patients.astype(str))
    columns = np.searchsorted(names, second_patients.astype(str))
    order = np.argsort(second)
    # below[r, j]: how many of the r smallest of `second` are patient j's.
    below = np.zeros((len(second) + 1, len(names)))
    below[np.arange(1, len(second) + 1), columns[order]] = 1.0
    below = below.cumsum(axis=0)
    left, right = (np.searchsorted(second[order], first, side=side) for side in ("left", "right"))
    wins = np.zeros((len(names), len(names)))
    np.add.at(wins, rows, 0.5 * (below[left] + below[right]))
    n1, n2 = (np.bincount(member, minlength=len(names)).astype(float) for member in (rows, columns))
    return wins, n1, n2


def _weighted_auc(
    weights: Float[np.ndarray, "draws patients"], wins: np.ndarray, n1: np.ndarray, n2: np.ndarray
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """AUC and its standard error where patient i counts `weights[:, i]` times; NaN where a group is empty."""
    total1, total2 = (weights @ n1)[:, None], (weights @ n2)[:, None]
    there = (total1 > 0) & (total2 > 0)
    total1, total2 = np.where(there, total1, np.nan), np.where(there, total2, np.nan)
    rows, columns = weights @ wins.T, weights @ wins
    value = (weights * rows).sum(axis=1, keepdims=True) / (total1 * total2)
    influence = (rows + columns) / (total1 * total2) - value * (n1 / total1 + n2 / total2)
    patients = weights.shape[1]
    variance = patients / (patients - 1.0) * (weights * influence**2).sum(axis=1)
    return value[:, 0], np.sqrt(variance)


def _mean_squares(ratings: np.ndarray) -> tuple[float, float, float]:
    """Two-way mean squares: between subjects, residual, between raters."""
    n, k = ratings.shape
    if n < 2 or k < 2:
        raise InputError(f"Agreement needs two subjects and two measurements or more, found {n} and {k}.")
    grand = ratings.mean()
    rows, columns = ratings.mean(axis=1), ratings.mean(axis=0)
    between = k * np.sum((rows - grand) ** 2) / (n - 1)
    raters = n * np.sum((columns - grand) ** 2) / (k - 1)
    residual = np.sum((ratings - rows[:, None] - columns[None, :] + grand) ** 2) / ((n - 1) * (k - 1))
    return float(between), float(residual), float(raters)
