"""Coverage of 95 % intervals by simulation: means over patients, pooled lesions, AUC. Makes the table of docs/method.md.

python -m benchmarks.coverage [--cohorts 2000]
"""

import argparse

import numpy as np

from lesionwise.stats import auc, auc_interval, mean_over_patients
from lesionwise.stats.bootstrap import MIN_PATIENTS, interval_from_draws

SHAPES = {"normal": 0.0, "clustered": 0.0, "exponential": 1.0, "share": 0.8}
"""Simulated values per patient, and their mean: lesions of unequal numbers ("clustered"), a skewed one, a share."""

PATIENTS = (6, 8, 12, 20)
_TRUE_AUC = 0.748
"""Phi(1.2 / sqrt(2 x .49 + .25 + 2)): two lesions of different patients."""


def mean_coverage(shape: str, patients: int, *, cohorts: int, rng: np.random.Generator, plain: bool = False) -> float:
    """Share of simulated cohorts whose interval of the mean over patients holds the truth; `plain`: percentiles."""
    held = 0
    for _ in range(cohorts):
        member = np.repeat(np.arange(patients), rng.poisson(np.exp(rng.normal(2.0, 1.0, patients))) + 1)
        if shape != "clustered":
            member = np.arange(patients)
        own = {
            "normal": rng.standard_normal(patients),
            "clustered": rng.standard_normal(patients),
            "exponential": rng.exponential(size=patients),
            "share": rng.beta(4.0, 1.0, patients),
        }[shape]
        values = own[member] + (rng.standard_normal(len(member)) if shape == "clustered" else 0.0)
        if plain:
            draws = values[rng.integers(0, patients, (500, patients))].mean(axis=1)
            low, high = np.quantile(draws, [0.025, 0.975])
        else:
            found = mean_over_patients(values, member, rng=rng, n_resamples=500)
            low, high = found.low, found.high
        held += low <= SHAPES[shape] <= high
    return held / cohorts


def pooled_coverage(patients: int, *, cohorts: int, rng: np.random.Generator) -> float:
    """The same for a share of all lesions, pooled, whose patients differ in number and in rate (true share 0.6)."""
    held = 0
    for _ in range(cohorts):
        lesions = rng.integers(4, 25, patients)
        found = rng.binomial(lesions, rng.beta(3.0, 2.0, patients))
        times = rng.multinomial(patients, np.full(patients, 1.0 / patients), size=500)  # how often a patient is drawn
        draws = (times @ found) / (times @ lesions)
        one = interval_from_draws(found.sum() / lesions.sum(), draws, n_patients=patients, bounds=(0.0, 1.0))
        held += one.low <= 0.6 <= one.high
    return held / cohorts


def auc_coverage(patients: int, *, cohorts: int, rng: np.random.Generator) -> float:
    """The same for an AUC of clustered lesions: patients differ in level, in numbers, and in the effect itself."""
    held = counted = 0
    for _ in range(cohorts):
        y, kind, member = clustered(patients, rng)
        one = auc_interval(y[kind], y[~kind], first_patients=member[kind], second_patients=member[~kind])
        if one.n_patients >= MIN_PATIENTS and np.isfinite(one.low):
            held, counted = held + (one.low <= _TRUE_AUC <= one.high), counted + 1
    return held / counted


def clustered(patients: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, which are of the first kind, and whose: an AUC of .748 on average."""
    member = np.repeat(np.arange(patients), rng.integers(4, 25, patients))
    kind = rng.random(len(member)) < rng.beta(2.0, 2.0, patients)[member]
    level, own = 0.7 * rng.standard_normal(patients), 0.5 * rng.standard_normal(patients)
    return level[member] + (own[member] + 1.2) * kind + rng.standard_normal(len(member)), kind, member


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=2000)
    cohorts = parser.parse_args().cohorts
    y, kind, _ = clustered(4000, np.random.default_rng(9))
    print(f"true AUC of the simulation: {auc(y[kind], y[~kind]):.3f} (used: {_TRUE_AUC})")
    print("| patients | " + " | ".join((*SHAPES, "normal, percentiles", "pooled share", "AUC")) + " |")
    print("|" + "---|" * (len(SHAPES) + 4))
    for patients in PATIENTS:
        rng = np.random.default_rng(patients)
        cells = [mean_coverage(shape, patients, cohorts=cohorts, rng=rng) for shape in SHAPES]
        cells.append(mean_coverage("normal", patients, cohorts=cohorts, rng=rng, plain=True))
        cells.append(pooled_coverage(patients, cohorts=cohorts, rng=rng))
        cells.append(auc_coverage(patients, cohorts=cohorts, rng=rng))
        print(f"| {patients} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
