"""How often a promise to patients is broken: certified thresholds against bootstrapped ones. Makes the table of docs/method.md.

python -m benchmarks.promise [--cohorts 1000]
"""

import argparse
from dataclasses import dataclass

import numpy as np

from lesionwise.stats.risk import Promise, safest_last

GRID = np.linspace(-4.0, 12.0, 161)
"""Thresholds that are tried, in log-odds of being false."""


@dataclass(frozen=True, eq=False)
class Population:
    """What each patient loses (patients, thresholds) and how many false lesions go, at every threshold of `GRID`."""

    losses: np.ndarray
    removed: np.ndarray

    @classmethod
    def of(cls, patients: int, rng: np.random.Generator, *, shift: float = 0.0) -> "Population":
        """True lesions at -2 (+ `shift`), false ones at 1, patients differing by SD 0.8 and one in ten by 3 for its true ones."""
        losses, removed = np.zeros((patients, len(GRID))), np.zeros(len(GRID))
        for number in range(patients):
            own = 0.8 * rng.standard_normal() + (3.0 if rng.random() < 0.1 else 0.0)
            true = np.sort(
                -2.0 + shift + own + 1.2 * rng.standard_normal(int(np.clip(rng.lognormal(3.0, 0.8), 3, 200)))
            )
            losses[number] = 1.0 - np.searchsorted(true, GRID) / len(true)
            removed += (1.0 + 1.2 * rng.standard_normal()) >= GRID
        return cls(losses, removed / patients)

    def breaks(self, promise: Promise, chosen: int | None) -> bool:
        """True if the threshold breaks the promise here."""
        if chosen is None:
            return False
        lost = self.losses[:, chosen]
        return bool(lost.mean() > promise.mean_loss or (lost > promise.much).mean() > promise.tail)


def certified(losses: np.ndarray, promise: Promise) -> int | None:
    """The threshold that is proved to keep the promise."""
    found = safest_last(np.arange(len(GRID), dtype=float), lambda n: losses[:, int(n)], promise)
    return None if found is None else int(found)


def bootstrapped(losses: np.ndarray, promise: Promise, rng: np.random.Generator) -> int | None:
    """The smallest threshold at which both risks keep the promise in that share of the resamples of patients."""
    n = len(losses)
    times = rng.multinomial(n, np.full(n, 1.0 / n), size=200) / n
    risks = np.stack([times @ losses / promise.mean_loss, times @ (losses > promise.much) / promise.tail])
    kept = np.quantile(risks.max(axis=0), promise.confidence, axis=0) <= 1.0
    safe = np.flatnonzero(np.logical_and.accumulate(kept[::-1])[::-1])
    return int(safe[0]) if len(safe) else None


@dataclass(frozen=True)
class Broken:
    """Shares of simulated cohorts; `removed` is the mean share of false lesions that the certified threshold removes."""

    certified: float
    bootstrapped: float
    shifted: float
    removed: float


def violations(
    patients: int, promise: Promise, *, cohorts: int, rng: np.random.Generator, worlds: tuple[Population, Population]
) -> Broken:
    """Cohorts drawn from the first world; judged in it, and in the shifted second."""
    here, there = worlds
    counts = np.zeros(4)
    for _ in range(cohorts):
        drawn = here.losses[rng.integers(0, len(here.losses), patients)]
        chosen, other = certified(drawn, promise), bootstrapped(drawn, promise, rng)
        gone = 0.0 if chosen is None else here.removed[chosen]
        counts += (here.breaks(promise, chosen), here.breaks(promise, other), there.breaks(promise, chosen), gone)
    return Broken(*(counts / cohorts))


def worlds(rng: np.random.Generator, *, patients: int = 8000) -> tuple[Population, Population]:
    """One like the fitted cohort, and one in which true lesions look more like false ones."""
    return Population.of(patients, rng), Population.of(patients, rng, shift=0.7)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=1000)
    cohorts = parser.parse_args().cohorts
    rng = np.random.default_rng(20261127)
    both = worlds(rng)
    print(
        "| patients | promised | certified: broken | bootstrap: broken | certified, shifted patients: broken | FP removed |"
    )
    print("|---|---|---|---|---|---|")
    for patients in (20, 45, 80, 160):
        promise = Promise().within_reach(patients)
        found = violations(patients, promise, cohorts=cohorts, rng=rng, worlds=both)
        cells = (found.certified, found.bootstrapped, found.shifted, found.removed)
        said = f"{promise.mean_loss:.0%} on average, {promise.tail:.0%} over {promise.much:.0%}"
        print(f"| {patients} | {said} | " + " | ".join(f"{100 * v:.1f} %" for v in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
