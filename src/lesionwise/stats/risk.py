"""Promises to patients that hold: risk control by tests with patients as the exchangeable units (METHOD section 5).

A threshold keeps a promise where the opposite is rejected: Learn-then-Test (Angelopoulos2021). Thresholds are tried from the
safest on and the first that fails ends the search, so that no correction is needed. A bootstrap gives no such promise: it
cannot see beyond the largest loss of its sample, and broke it in 29 to 43 % of simulated cohorts where 10 % were
promised.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float

from lesionwise.errors import InputError

Losses = Float[np.ndarray, " patients"]


def mean_loss_p(losses: Losses, *, most: float) -> float:
    """p-value of "the mean loss over patients is above `most`", losses between 0 and 1.

    prod (1 - most) / (1 - L_i): under that hypothesis (1 - L) / (1 - most) is at most 1 on average, so its product over
    patients exceeds 1 / p with probability p at most (Markov; a betting test, WaudbySmith2024). (1 - most)^n where nobody
    loses anything; 1 where a patient loses all.

    >>> round(mean_loss_p(np.zeros(45), most=0.05), 3)
    0.099
    """
    with np.errstate(divide="ignore"):
        return float(min(1.0, np.exp(len(losses) * np.log1p(-most) - np.log1p(-losses).sum())))


def tail_p(losses: Losses, *, much: float, most: float) -> float:
    """p-value of "more than the share `most` of the patients lose more than `much`": exact binomial.

    >>> round(tail_p(np.zeros(45), much=0.1, most=0.05), 3)
    0.099
    """
    return float(scipy.stats.binom.cdf(int((losses > much + 1e-12).sum()), len(losses), most))


@dataclass(frozen=True)
class Promise:
    """A patient loses at most `mean_loss` in the mean over patients, and at most the share `tail` of the patients lose more
    than `much`; both with `confidence`, over cohorts drawn like the one that was fitted on."""

    mean_loss: float = 0.05
    much: float = 0.1
    tail: float = 0.05
    confidence: float = 0.9

    def __post_init__(self) -> None:
        for name in ("mean_loss", "much", "tail"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise InputError(f"Expected {name.replace('_', ' ')} above 0 and below 1 in a promise, found {value}.")
        if not 0 < self.confidence < 1:
            raise InputError(f"Expected a confidence between 0 and 1, found {self.confidence}.")

    @classmethod
    def of(cls, max_loss: float, *, tail: float = 0.05, confidence: float = 0.9) -> "Promise":
        """The mean loss, and twice that as what counts as much."""
        return cls(max_loss, min(2.0 * max_loss, 0.99), tail, confidence)

    def kept_by(self, losses: Losses) -> bool:
        """True if these patients prove it: both opposites are rejected (a union: neither test needs a correction)."""
        p = max(mean_loss_p(losses, most=self.mean_loss), tail_p(losses, much=self.much, most=self.tail))
        return p <= 1.0 - self.confidence + 1e-12

    def least(self, patients: int) -> float:
        """The smallest share that so many patients can promise: 1 - (1 - confidence)^(1 / n), if none of them loses anything."""
        return 1.0 - (1.0 - self.confidence) ** (1.0 / patients)

    @property
    def patients_needed(self) -> int:
        """Fewest patients that can prove it."""
        smallest = min(self.mean_loss, self.tail)
        return int(np.ceil(np.log(1.0 - self.confidence) / np.log1p(-smallest) - 1e-9))

    def check(self, patients: int) -> None:
        """Raises InputError, with the promise that could be made, where the cohort is too small for this one."""
        if patients < self.patients_needed:
            offered = np.ceil(100 * self.least(patients)) / 100
            raise InputError(
                f"Expected {self.patients_needed} patients or more to promise with {self.confidence:.0%} confidence that a "
                f"patient loses at most {self.mean_loss:.0%} on average and that at most {self.tail:.0%} of the patients lose "
                f"over {self.much:.0%}, found {patients}: add patients, or ask for what so many can promise with "
                f"--max-loss {max(offered, self.mean_loss):g} --tail {max(offered, self.tail):g}."
            )

    def within_reach(self, patients: int) -> "Promise":
        """This promise, or the nearest weaker one that so many patients can prove (for the folds of a cross-validation)."""
        least = self.least(patients)
        mean_loss = max(self.mean_loss, least)
        return Promise(mean_loss, max(self.much, mean_loss), max(self.tail, least), self.confidence)

    def sentence(self) -> str:
        """In words."""
        return (
            f"called false so that, with {self.confidence:.0%} confidence for patients like those fitted on, a patient loses at "
            f"most {100 * self.mean_loss:g} % of the true lesions on average, and at most {100 * self.tail:g} % of the "
            f"patients lose more than {100 * self.much:g} %"
        )


def safest_last(
    candidates: Float[np.ndarray, " thresholds"],
    losses_fn: Callable[[float], Losses],
    promise: Promise,
) -> float | None:
    """The smallest of the candidate thresholds that keeps the promise, all larger ones keeping it too; None if none does.

    Losses must not grow with the threshold: the search from the safest down is then a bisection.
    """
    ordered = np.unique(candidates)
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if promise.kept_by(losses_fn(float(ordered[middle]))) else (middle + 1, high)
    return float(ordered[low]) if low < len(ordered) else None
