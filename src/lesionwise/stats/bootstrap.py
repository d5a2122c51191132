"""Intervals by resampling patients: lesions and repeated scans of one patient stay together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm

from lesionwise.errors import InputError

MIN_PATIENTS = 6
"""Fewer patients give effect sizes only: an exact sign-flip test of five patients cannot fall below p = 0.0625."""

TOO_FEW = "effect size only: fewer than 6 patients"

BootstrapMethod = Literal["percentile", "bca"]
Values = Float[np.ndarray, " rows"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; the bounds are NaN where a note says why there are none."""

    estimate: float
    low: float
    high: float
    n_patients: int
    level: float = 0.95
    note: str = ""

    def excludes(self, value: int | float) -> bool:
        """True if `value` lies outside the interval; False without an interval."""
        return bool(value < self.low or value > self.high)

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.estimate:.3g}"
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def cluster_bootstrap(
    patients: Sequence[object] | np.ndarray,
    statistic_fn: Callable[[Int[np.ndarray, " picked"]], float],
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
    method: BootstrapMethod = "percentile",
) -> Interval:
    """Interval of a statistic of rows (lesions, scans), where whole patients are drawn with replacement.

    `patients` names the patient of each row; `statistic_fn` gets row numbers, those of a patient drawn twice twice.
    `bca` corrects for bias and skew (Efron1987), with the jackknife over patients. With fewer than six patients, or
    where resamples are mostly undefined, the bounds are NaN.
    """
    names, member = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    rows = [np.flatnonzero(member == number) for number in range(len(names))]
    estimate = float(statistic_fn(np.arange(len(member))))
    if len(names) < MIN_PATIENTS:
        return Interval(estimate, np.nan, np.nan, len(names), level, TOO_FEW)
    draws = rng.integers(0, len(names), size=(n_resamples, len(names)))
    values = np.array([statistic_fn(np.concatenate([rows[p] for p in draw])) for draw in draws], dtype=float)
    jackknife = None
    if method == "bca":
        jackknife = np.array(
            [statistic_fn(np.concatenate(rows[:p] + rows[p + 1 :])) for p in range(len(names))], dtype=float
        )
    return interval_from_draws(estimate, values, n_patients=len(names), level=level, jackknife=jackknife)


def interval_from_draws(
    estimate: float,
    draws: Float[np.ndarray, " draws"],
    *,
    n_patients: int,
    level: float = 0.95,
    jackknife: Float[np.ndarray, " patients"] | None = None,
) -> Interval:
    """Interval from bootstrap values of a statistic: percentile, or BCa where jackknife values are given."""
    finite = draws[np.isfinite(draws)]
    if n_patients < MIN_PATIENTS:
        return Interval(estimate, np.nan, np.nan, n_patients, level, TOO_FEW)
    if len(finite) < 0.5 * len(draws) or not np.isfinite(estimate):
        return Interval(estimate, np.nan, np.nan, n_patients, level, "undefined in most resamples")
    tails = np.array([(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    if jackknife is not None and np.ptp(finite) > 0:
        tails = _bca_tails(estimate, finite, jackknife[np.isfinite(jackknife)], tails)
    low, high = np.quantile(finite, tails)
    return Interval(estimate, float(low), float(high), n_patients, level)


def mean_over_patients(
    values: Values,
    patients: Sequence[object] | np.ndarray,
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of the patients' means (each patient counts once, however many lesions), with a patient-bootstrap interval.

    NaN values are left out; patients without any value do not count.
    """
    per_patient = patient_means(values[:, None], patients)[:, 0]
    return mean_interval(per_patient, rng=rng, n_resamples=n_resamples, level=level)


def mean_interval(
    per_patient: Float[np.ndarray, " patients"],
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
    method: BootstrapMethod = "percentile",
) -> Interval:
    """Mean of one value per patient, with a bootstrap interval. NaN values are left out."""
    known = per_patient[np.isfinite(per_patient)]
    n = len(known)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0, level, "no values")
    draws = known[rng.integers(0, n, size=(n_resamples, n))].mean(axis=1)
    jackknife = (known.sum() - known) / (n - 1) if method == "bca" and n > 1 else None
    return interval_from_draws(float(known.mean()), draws, n_patients=n, level=level, jackknife=jackknife)


def profile_over_patients(
    values: Float[np.ndarray, "rows bins"],
    patients: Sequence[object] | np.ndarray,
    *,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> list[Interval]:
    """Mean over patients in each bin of a profile, with pointwise bands; whole patients are drawn, all bins together."""
    per_patient = patient_means(values, patients)
    n = len(per_patient)
    picked = rng.integers(0, n, size=(n_resamples, n))
    out = []
    for column in per_patient.T:
        known = np.isfinite(column)
        if not known.any():
            out.append(Interval(np.nan, np.nan, np.nan, 0, level, "no values"))
            continue
        drawn = column[picked]
        count = np.isfinite(drawn).sum(axis=1)
        draws = np.where(count > 0, np.nansum(drawn, axis=1) / np.maximum(count, 1), np.nan)
        estimate = float(column[known].mean())
        out.append(interval_from_draws(estimate, draws, n_patients=int(known.sum()), level=level))
    return out


def patient_means(
    values: Float[np.ndarray, "rows bins"], patients: Sequence[object] | np.ndarray
) -> Float[np.ndarray, "patients bins"]:
    """Mean of each patient's rows, NaN values left out; patients in sorted order of their names."""
    names, member = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    if len(member) != len(values):
        raise InputError(f"Expected one patient per row, found {len(member)} patients for {len(values)} rows.")
    known = np.isfinite(values)
    sums, counts = np.zeros((len(names), values.shape[1])), np.zeros((len(names), values.shape[1]))
    np.add.at(sums, member, np.where(known, values, 0.0))
    np.add.at(counts, member, known)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _bca_tails(
    estimate: float, draws: np.ndarray, jackknife: np.ndarray, tails: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "2"]:
    """Quantiles to read, shifted for bias and skew."""
    below = (np.sum(draws < estimate) + 0.5 * np.sum(draws == estimate)) / len(draws)
    bias = norm.ppf(np.clip(below, 1.0 / len(draws), 1.0 - 1.0 / len(draws)))
    spread = jackknife.mean() - jackknife
    cubes, squares = np.sum(spread**3), np.sum(spread**2)
    skew = cubes / (6.0 * squares**1.5) if squares > 0 else 0.0
    shifted = bias + norm.ppf(tails)
    return norm.cdf(bias + shifted / (1.0 - skew * shifted))
