"""Choosing features and kind of model in the fitting cohort alone, by nested cross-validation and a stated rule."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.errors import InputError
from lesionwise.stats.bootstrap import Interval, interval_from_draws
from lesionwise.stats.effects import weighted_auc
from lesionwise.stats.risk import Promise
from lesionwise.triage.evidence import measured_sets
from lesionwise.triage.families import catalogue, of_families
from lesionwise.triage.fitting import Cohort, nested_probabilities, patient_shares
from lesionwise.triage.scorer import KINDS

RULE = (
    "Of all sets and kinds that keep the promise in nested cross-validation (at most the allowed share of a patient's "
    "true lesions lost, in the mean over patients; if none does, those that lose least), the one with the largest AUC is "
    "found; then the cheapest is taken whose AUC is within one standard error (of the difference, over patients) of it. "
    "Cheapest is first in the list of sets, and the linear model before trees."
)


@dataclass(frozen=True)
class Option:
    """One set of features with one kind of model, as nested cross-validation over the fitting patients sees it.

    `true_lost` is the mean over patients. `behind` is the AUC of the best option that keeps the promise minus its own,
    `behind_se` the standard error of that over patients.
    """

    features: str
    kind: str
    families: tuple[str, ...]
    auc: Interval
    false_removed: float
    true_lost: float
    behind: float
    behind_se: float


@dataclass(frozen=True)
class Choice:
    """Every option that was tried, and the number of the one that `RULE` takes."""

    options: tuple[Option, ...]
    taken: int

    @property
    def option(self) -> Option:
        """What is taken."""
        return self.options[self.taken]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: nan becomes null."""
        rows = [_plain(asdict(option)) for option in self.options]
        return {"rule": RULE, "taken": rows[self.taken], "options": rows}

    def markdown(self) -> str:
        """The table as it stands in docs/triage.md."""
        lines = ["| features | model | AUC | FP removed | of a patient's TP lost | |", "|---|---|---|---|---|---|"]
        for number, o in enumerate(self.options):
            mark = "taken" if number == self.taken else ""
            lines.append(
                f"| {o.features} | {o.kind} | {o.auc} | {100 * o.false_removed:.0f} % | {100 * o.true_lost:.1f} % | {mark} |"
            )
        return "\n".join(lines) + "\n"


def choose(
    lesions: pd.DataFrame,
    *,
    channels: Sequence[str],
    kinds: Sequence[str] = tuple(KINDS),
    promise: Promise | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Choice:
    """Nested cross-validation of every measured set of features with every kind of model; takes one by `RULE`.

    Folds too small for the `promise` keep the nearest that they can prove.
    """
    known = catalogue(channels, radiomics=[name for name in lesions.columns if name.startswith("radiomics_")])
    tried: list[tuple[str, str, tuple[str, ...], np.ndarray, np.ndarray]] = []
    cohort: Cohort | None = None
    for name, families in measured_sets(lesions).items():
        columns = [c for c in of_families(known, families) if c in lesions and lesions[c].notna().any()]
        cohort = Cohort.of(lesions, columns)
        for kind in kinds:
            p, called = nested_probabilities(cohort, kind=kind, promise=promise, seed=seed)
            tried.append((name, kind, families, p, called))
    if cohort is None:
        raise InputError("Expected a table of features, found none that belong to a known set.")
    return _by_rule(cohort, tried, max_loss=(promise or Promise()).mean_loss, n_resamples=n_resamples, seed=seed)


def _by_rule(
    cohort: Cohort,
    tried: Sequence[tuple[str, str, tuple[str, ...], np.ndarray, np.ndarray]],
    *,
    max_loss: float,
    n_resamples: int,
    seed: int,
) -> Choice:
    """Figures of every option and the one taken; the same patients are drawn for all, so that differences are paired."""
    w_true, w_false = cohort.weights * (cohort.false == 0), cohort.weights * (cohort.false == 1)
    patients, member = np.unique(cohort.patients, return_inverse=True)
    rows = [np.flatnonzero(member == number) for number in range(len(patients))]
    picks = np.random.default_rng(seed).integers(0, len(patients), size=(n_resamples, len(patients)))
    drawn = [np.concatenate([rows[n] for n in pick]) for pick in picks]
    whole = np.array([weighted_auc(p, w_true, w_false) for *_, p, _ in tried])
    draws = np.array([[weighted_auc(p[d], w_true[d], w_false[d]) for d in drawn] for *_, p, _ in tried])
    share = patient_shares(cohort.weights, cohort.false, cohort.patients)
    lost = np.array([float(share[called].sum() / share.sum()) for *_, called in tried])
    keeping = lost <= max(max_loss, float(lost.min())) + 1e-9
    best = int(np.argmax(np.where(keeping, whole, -np.inf)))
    behind, behind_se = whole[best] - whole, np.nanstd(draws[best] - draws, axis=1)
    options = tuple(
        Option(
            features=name,
            kind=kind,
            families=families,
            auc=interval_from_draws(float(whole[n]), draws[n], n_patients=len(patients), scale="logit"),
            false_removed=float(w_false[called].sum() / w_false.sum()),
            true_lost=float(lost[n]),
            behind=float(behind[n]),
            behind_se=float(behind_se[n]),
        )
        for n, (name, kind, families, _, called) in enumerate(tried)
    )
    return Choice(options, int(np.flatnonzero(keeping & (behind <= behind_se))[0]))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value)
        if isinstance(value, Mapping)
        else (None if isinstance(value, float) and not np.isfinite(value) else value)
        for key, value in row.items()
    }
