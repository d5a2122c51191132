"""Fitting with the patient as the unit: nested cross-validation, calibration and an operating point by a stated rule."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from lesionwise.errors import InputError
from lesionwise.stats.risk import Promise, safest_last
from lesionwise.triage.scorer import KINDS, AbstractScorer, Calibration, Scores, Table

OUTER_FOLDS = 5
INNER_FOLDS = 4
MIN_PATIENTS = 4


@dataclass(frozen=True, eq=False)
class Cohort:
    """Lesions to learn from: features, which are false, whose they are, and what each stands for.

    `weights` undo the draw of instances by outcome: a lesion drawn with probability 1/3 stands for three.
    `volumes` in mm3 are nan where they are not known.
    """

    table: Table
    names: tuple[str, ...]
    false: Int[np.ndarray, " lesions"]
    patients: np.ndarray
    weights: Scores
    volumes: Scores | None = None

    def __post_init__(self) -> None:
        patients, kinds = len(np.unique(self.patients)), np.unique(self.false)
        if patients < MIN_PATIENTS:
            raise InputError(f"Triage is fitted on at least {MIN_PATIENTS} patients, found {patients}.")
        if len(kinds) < 2:
            found = "false" if len(kinds) and kinds[0] else "true"
            raise InputError(f"Triage is fitted on true and false lesions, but all {len(self.false)} are {found}.")

    @classmethod
    def of(cls, lesions: pd.DataFrame, names: list[str]) -> "Cohort":
        """From a feature table (`triage.cohort`): rows TP and FP; US counts as true, for it is on a lesion."""
        rows = lesions[lesions["outcome"].isin(("TP", "US", "FP"))]
        return cls(
            table=rows[names].to_numpy(dtype=float),
            names=tuple(names),
            false=(rows["outcome"] == "FP").to_numpy().astype(np.int64),
            patients=rows["subject"].to_numpy().astype(str),
            weights=rows["weight"].to_numpy(dtype=float),
            volumes=rows["volume_mm3"].to_numpy(dtype=float) if "volume_mm3" in rows else None,
        )

    def take(self, rows: np.ndarray) -> "Cohort":
        """Some of the lesions."""
        volumes = None if self.volumes is None else self.volumes[rows]
        return Cohort(self.table[rows], self.names, self.false[rows], self.patients[rows], self.weights[rows], volumes)

    @property
    def judged_mm3(self) -> tuple[float, float]:
        """Smallest and largest volume of the false lesions: what lies beyond, no false lesion could teach anything of."""
        if self.volumes is None:
            return 0.0, float("inf")
        false = self.volumes[self.false == 1]
        return float(false.min()), float(false.max())

    def within(self, bounds: tuple[float, float]) -> Bool[np.ndarray, " lesions"]:
        """Which lesions are judged at all by a model that knows these volumes."""
        if self.volumes is None:
            return np.ones(len(self.false), dtype=bool)
        return (self.volumes >= bounds[0]) & (self.volumes <= bounds[1])


@dataclass(frozen=True, eq=False)
class Fitted:
    """A scorer with its calibration and operating point, and the out-of-fold probabilities that chose them.

    `promise` is what the threshold keeps. Lesions outside `judged_mm3` are kept without a verdict.
    """

    scorer: AbstractScorer
    calibration: Calibration
    threshold: float
    strength: float
    out_of_fold: Float[np.ndarray, " lesions"]
    promise: Promise
    judged_mm3: tuple[float, float] = (0.0, float("inf"))

    def probability(self, table: Table) -> Scores:
        """Calibrated probability of being false."""
        return self.calibration.probability(self.scorer.log_odds(table))


def patient_folds(
    patients: np.ndarray, false: Int[np.ndarray, " lesions"], *, folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers (fit, test) of each fold: a patient is wholly on one side; false lesions are spread evenly."""
    from sklearn.model_selection import StratifiedGroupKFold

    n = min(folds, len(np.unique(patients)))
    splitter = StratifiedGroupKFold(n_splits=n, shuffle=True, random_state=seed)
    yield from splitter.split(np.zeros((len(patients), 1)), false, groups=patients)


def operating_point(p_false: Scores, false: Int[np.ndarray, " lesions"], *, weights: Scores, max_loss: float) -> float:
    """Smallest threshold at which the lesions with p >= threshold hold at most `max_loss` of the true lesions.

    1 or more (nothing is called false) where even the surest call would lose more.
    """
    true = false == 0
    candidates = np.unique(p_false)
    total = float(weights[true].sum())
    order = np.argsort(p_false[true])
    values, mass = p_false[true][order], weights[true][order]
    above = mass.sum() - np.concatenate([[0.0], np.cumsum(mass)])
    lost = above[np.searchsorted(values, candidates, side="left")] / max(total, 1e-12)
    allowed = candidates[lost <= max_loss + 1e-12]
    return float(allowed.min()) if len(allowed) else float(np.nextafter(max(1.0, p_false.max()), 2.0))


def fit(cohort: Cohort, *, kind: str = "l1_logistic", promise: Promise | None = None, seed: int = 0) -> Fitted:
    """The final scorer: strength by patient-grouped cross-validation, calibration and threshold from unseen patients.

    Calibration and operating point come from the out-of-fold scores of the chosen strength. The threshold keeps the
    `promise`; None takes the default one, or the nearest weaker one that so many patients can prove. Raises InputError for an
    unknown kind or a cohort that is too small for the promise.
    """
    if kind not in KINDS:
        raise InputError(f"Expected the kind of model to be one of {', '.join(KINDS)}, found {kind!r}.")
    patients = patients_at_risk(cohort)
    if promise is None:
        promise = Promise().within_reach(patients)
    promise.check(patients)
    maker, strengths = KINDS[kind]
    best, scores = _choose(cohort, kind=kind, seed=seed)
    calibration = Calibration.learn(scores, cohort.false, weights=cohort.weights)
    out_of_fold = calibration.probability(scores)
    judged = cohort.judged_mm3
    # What is not judged cannot be lost: it never reaches the threshold.
    reached = np.where(cohort.within(judged), out_of_fold, 0.0)
    threshold = certified_point(reached, cohort, promise)
    scorer = maker.fit(cohort.table, cohort.false, weights=cohort.weights, strength=strengths[best])
    return Fitted(scorer, calibration, threshold, strengths[best], out_of_fold, promise, judged)


def patients_at_risk(cohort: Cohort) -> int:
    """Patients with a true lesion: those who can lose one."""
    return len(np.unique(cohort.patients[cohort.false == 0]))


def certified_point(p_false: Scores, cohort: Cohort, promise: Promise) -> float:
    """The smallest threshold that is proved to keep the promise to patients like these; above all scores if none is."""
    shares = patient_shares(cohort.weights, cohort.false, cohort.patients)
    names, member = np.unique(cohort.patients, return_inverse=True)
    at_risk = np.bincount(member, weights=shares) > 0

    def losses(threshold: float) -> Scores:
        lost = np.bincount(member, weights=shares * (p_false >= threshold), minlength=len(names))
        return np.minimum(lost[at_risk], 1.0)

    above = float(np.nextafter(max(1.0, p_false.max()), 2.0))
    found = safest_last(p_false[p_false > 0], losses, promise)
    return above if found is None else found


def patient_shares(weights: Scores, false: Int[np.ndarray, " lesions"], patients: np.ndarray) -> Scores:
    """What each true lesion is of its patient's, so that every patient's add up to 1; 0 for false lesions.

    A sum over lesions of this, divided by its total, is a mean over patients: one with two hundred lesions counts as
    much as one with ten.
    """
    _, member = np.unique(patients, return_inverse=True)
    true = np.where(false == 0, weights, 0.0)
    total = np.bincount(member, weights=true)[member]
    return np.divide(true, total, out=np.zeros_like(true), where=total > 0)


def nested_probabilities(
    cohort: Cohort, *, kind: str = "l1_logistic", promise: Promise | None = None, seed: int = 0
) -> tuple[Float[np.ndarray, " lesions"], np.ndarray]:
    """Probability of being false and verdict (True: false) of every lesion from models that never saw its patient.

    Strength, calibration and operating point are chosen inside each outer fold; folds hold fewer patients, so their promise
    is the nearest that those can prove.
    """
    wanted = promise or Promise()
    p = np.full(len(cohort.false), np.nan)
    verdict = np.zeros(len(cohort.false), dtype=bool)
    for rows, test in patient_folds(cohort.patients, cohort.false, folds=OUTER_FOLDS, seed=seed):
        own = cohort.take(rows)
        inner = fit(own, kind=kind, promise=wanted.within_reach(patients_at_risk(own)), seed=seed + 1)
        p[test] = inner.probability(cohort.table[test])
        verdict[test] = (p[test] >= inner.threshold) & cohort.within(inner.judged_mm3)[test]
    return p, verdict


def _choose(cohort: Cohort, *, kind: str, seed: int) -> tuple[int, Scores]:
    """Which strength has the smallest out-of-fold log loss, and its out-of-fold scores."""
    maker, strengths = KINDS[kind]
    scores = np.zeros((len(strengths), len(cohort.false)))
    for rows, test in patient_folds(cohort.patients, cohort.false, folds=INNER_FOLDS, seed=seed):
        known = cohort.false[rows]
        for number, strength in enumerate(strengths):
            if len(np.unique(known)) < 2:
                continue
            scorer = maker.fit(cohort.table[rows], known, weights=cohort.weights[rows], strength=strength)
            scores[number, test] = scorer.log_odds(cohort.table[test])
    losses = [_log_loss(s, cohort.false, cohort.weights) for s in scores]
    best = int(np.argmin(losses))
    return best, scores[best]


def _log_loss(scores: Scores, false: Int[np.ndarray, " lesions"], weights: Scores) -> float:
    signed = np.where(false == 1, scores, -scores)
    return float(np.average(np.logaddexp(0.0, -signed), weights=weights))
