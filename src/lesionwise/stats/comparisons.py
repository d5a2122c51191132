"""Tests between groups: the published ones, which pool lesions, and those with the patient as the unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Float

from lesionwise.errors import InputError
from lesionwise.stats.bootstrap import MIN_PATIENTS, TOO_FEW, Interval, mean_interval
from lesionwise.stats.effects import auc, auc_interval

_EXACT_UP_TO = 14


@dataclass(frozen=True)
class TestResult:
    """One test. `effect` has the meaning that `name` says; `p` is two-sided, NaN where a note says why."""

    __test__ = False  # not a test case for pytest

    name: str
    effect: float
    p: float
    n_patients: int
    note: str = ""


def holm(p_values: Sequence[float] | np.ndarray) -> Float[np.ndarray, " tests"]:
    """Holm's step-down adjustment (Holm1979): family-wise error of all tests together. NaN stays NaN and is not counted.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, p[index] * (len(order) - rank)))
        out[index] = running
    return out


def kruskal_wallis(groups: Mapping[str, Float[np.ndarray, " _"]]) -> TestResult:
    """Kruskal-Wallis over pooled lesions, as published. It takes lesions of one patient as independent: not for claims.

    `effect` is epsilon squared = H / (n - 1): 0 none, 1 complete separation.
    """
    filled = [values for values in groups.values() if len(values)]
    total = sum(len(values) for values in filled)
    if len(filled) < 2 or np.ptp(np.concatenate(filled)) == 0:
        return TestResult("kruskal_wallis_pooled", np.nan, np.nan, 0, "fewer than two groups that differ")
    h, p = scipy.stats.kruskal(*filled)
    return TestResult("kruskal_wallis_pooled", float(h / (total - 1)), float(p), 0, "lesions pooled")


def mann_whitney_pairs(groups: Mapping[str, Float[np.ndarray, " _"]]) -> pd.DataFrame:
    """Mann-Whitney of every pair of groups over pooled lesions, with Holm, as published (lesions taken as independent).

    Columns: first, second, n_first, n_second, auc = U / (n1 n2), p, p_holm.
    """
    rows = []
    for first, second in combinations(groups, 2):
        a, b = groups[first], groups[second]
        p = float(scipy.stats.mannwhitneyu(a, b).pvalue) if len(a) and len(b) else np.nan
        rows.append(
            {
                "first": first,
                "second": second,
                "n_first": len(a),
                "n_second": len(b),
                "auc": auc(a, b) if len(a) and len(b) else np.nan,
                "p": p,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=float))) if len(table) else table


def sign_flip_test(
    differences: Float[np.ndarray, " patients"], *, rng: np.random.Generator, n_permutations: int = 9999
) -> TestResult:
    """Is the mean of one difference per patient zero? Signs are flipped per patient; exact up to 14 patients.

    `effect` is the mean difference. Valid where, without an effect, a patient's difference is as likely to have either
    sign. NaN differences are left out.
    """
    d = differences[np.isfinite(differences)]
    n = len(d)
    mean = float(d.mean()) if n else float("nan")
    if n < MIN_PATIENTS:
        return TestResult("sign_flip", mean, np.nan, n, TOO_FEW)
    if n <= _EXACT_UP_TO:
        signs = np.array(list(product((-1.0, 1.0), repeat=n)))
        drawn, add = signs @ d / n, 0
    else:
        drawn = (2.0 * rng.integers(0, 2, size=(n_permutations, n), dtype=np.int8) - 1.0) @ d / n
        add = 1
    extreme = np.sum(np.abs(drawn) >= abs(mean) * (1.0 - 1e-12))
    return TestResult("sign_flip", mean, float((extreme + add) / (len(drawn) + add)), n)


def within_patient_test(
    first: Float[np.ndarray, " n1"],
    second: Float[np.ndarray, " n2"],
    *,
    first_patients: Sequence[object] | np.ndarray,
    second_patients: Sequence[object] | np.ndarray,
    rng: np.random.Generator,
) -> TestResult:
    """Does `first` exceed `second` within patients? One AUC - 0.5 per patient that has both, then a sign-flip test.

    Differences between patients cancel, and effects that vary between patients are allowed for. `effect` is the mean
    AUC within patients (0.5 = none).
    """
    a, b = np.asarray(first_patients).astype(str), np.asarray(second_patients).astype(str)
    both = np.intersect1d(a, b)
    each = np.array([auc(first[a == name], second[b == name]) for name in both], dtype=float)
    result = sign_flip_test(each - 0.5, rng=rng)
    return TestResult("within_patient", result.effect + 0.5, result.p, result.n_patients, result.note)


def patient_pairs(
    frame: pd.DataFrame, *, value: str, group: str, patient: str, order: Sequence[str], rng: np.random.Generator
) -> pd.DataFrame:
    """Every pair of groups with the patient as unit.

    Columns: first, second, n_first, n_second, auc with auc_low, auc_high (patients drawn), auc_within (mean AUC within
    patients that have both), patients, p (sign flip over patients), p_holm, note.
    """
    known = frame[np.isfinite(frame[value].to_numpy(dtype=float))]
    present = [name for name in order if (known[group] == name).any()]
    rows = []
    for first, second in combinations(present, 2):
        sides = [known[known[group] == name] for name in (first, second)]
        a, b = (side[value].to_numpy(dtype=float) for side in sides)
        pa, pb = (side[patient].astype(str).to_numpy(dtype=str) for side in sides)
        interval = auc_interval(a, b, first_patients=pa, second_patients=pb)
        test = within_patient_test(a, b, first_patients=pa, second_patients=pb, rng=rng)
        rows.append(
            {
                "first": first,
                "second": second,
                "n_first": len(a),
                "n_second": len(b),
                "auc": interval.estimate,
                "auc_low": interval.low,
                "auc_high": interval.high,
                "auc_within": test.effect,
                "patients": test.n_patients,
                "p": test.p,
                "note": test.note,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=float))) if len(table) else table


def paired_difference(
    first: Float[np.ndarray, " rows"],
    second: Float[np.ndarray, " _"],
    *,
    patients: Sequence[object] | np.ndarray,
    rng: np.random.Generator,
) -> tuple[Interval, TestResult]:
    """first - second measured on the same scans (two models): mean over patients with interval, and a sign-flip test.

    Repeated scans of a patient are averaged first: each patient counts once.
    """
    if len(first) != len(second):
        raise InputError(f"Paired values must be as many, found {len(first)} and {len(second)}.")
    per_patient = pd.Series(first - second).groupby(np.asarray(patients).astype(str)).mean().dropna()
    d = per_patient.to_numpy(dtype=float)
    return mean_interval(d, rng=rng), sign_flip_test(d, rng=rng)
