"""Fitting with the patient as the unit: nested cross-validation, calibration and an operating point by a stated rule."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from lesionwise.errors import InputError
from lesionwise.triage.scorer import KINDS, AbstractScorer, Calibration, Scores, Table

OUTER_FOLDS = 5
INNER_FOLDS = 4
MIN_PATIENTS = 4
SAFE_LEVEL = 0.9
SAFE_RESAMPLES = 200
TAIL = 0.05
"""Share of the patients that may lose more than twice the allowed share."""


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

    Lesions outside `judged_mm3` are kept without a verdict.
    """

    scorer: AbstractScorer
    calibration: Calibration
    threshold: float
    strength: float
    out_of_fold: Float[np.ndarray, " lesions"]
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


def fit(cohort: Cohort, *, kind: str = "l1_logistic", max_loss: float = 0.05, seed: int = 0) -> Fitted:
    """The final scorer: strength by patient-grouped cross-validation, calibration and threshold from unseen patients.

    Calibration and operating point come from the out-of-fold scores of the chosen strength. `max_loss` is the share of
    a patient's true lesions that may be lost, in the mean over patients. Raises InputError for an unknown kind or a share
    outside 0 to 1.
    """
    if kind not in KINDS:
        raise InputError(f"Expected the kind of model to be one of {', '.join(KINDS)}, found {kind!r}.")
    if not 0 <= max_loss < 1:
        raise InputError(f"Expected the share of true lesions that may be lost in 0 to 1, found {max_loss}.")
    maker, strengths = KINDS[kind]
    best, scores = _choose(cohort, kind=kind, seed=seed)
    calibration = Calibration.learn(scores, cohort.false, weights=cohort.weights)
    out_of_fold = calibration.probability(scores)
    judged = cohort.judged_mm3
    # What is not judged cannot be lost: it never reaches the threshold.
    reached = np.where(cohort.within(judged), out_of_fold, 0.0)
    threshold = _safe_point(cohort, reached, max_loss=max_loss, seed=seed)
    scorer = maker.fit(cohort.table, cohort.false, weights=cohort.weights, strength=strengths[best])
    return Fitted(scorer, calibration, threshold, strengths[best], out_of_fold, judged)


def patient_shares(weights: Scores, false: Int[np.ndarray, " lesions"], patients: np.ndarray) -> Scores:
    """What each true lesion is of its patient's, so that every patient's add up to 1; 0 for false lesions.

    A sum over lesions of this, divided by its total, is a mean over patients: one with two hundred lesions counts as
    much as one with ten.
    """
    _, member = np.unique(patients, return_inverse=True)
    true = np.where(false == 0, weights, 0.0)
    total = np.bincount(member, weights=true)[member]
    return np.divide(true, total, out=np.zeros_like(true), where=total > 0)


def patient_points(
    p_false: Scores, shares: Scores, patients: np.ndarray, *, max_loss: float
) -> Float[np.ndarray, " patients"]:
    """Per patient, in the order of `np.unique`, the smallest threshold at which it loses at most `max_loss`; 0 without
    true lesions."""
    names, member = np.unique(patients, return_inverse=True)
    points = np.zeros(len(names))
    for number in range(len(names)):
        rows = np.flatnonzero((member == number) & (shares > 0))
        order = rows[np.argsort(-p_false[rows], kind="stable")]
        kept = np.flatnonzero(np.cumsum(shares[order]) > max_loss + 1e-12)
        if len(kept):
            points[number] = np.nextafter(p_false[order[kept[0]]], 2.0)
    return points


def _safe_point(cohort: Cohort, p: Scores, *, max_loss: float, seed: int) -> float:
    """The operating point at which a patient loses at most `max_loss` of the true lesions in the mean over patients, and
    at most `TAIL` of the patients lose more than twice that, in 90 % of the resamples of patients: an upper confidence
    bound of both risks (Bates et al. 2021, by bootstrap)."""
    rng = np.random.default_rng(seed)
    patients, member = np.unique(cohort.patients, return_inverse=True)
    rows = [np.flatnonzero(member == number) for number in range(len(patients))]
    shares = patient_shares(cohort.weights, cohort.false, cohort.patients)
    own = patient_points(p, shares, cohort.patients, max_loss=2 * max_loss)

    def point(pick: np.ndarray) -> float:
        drawn = np.concatenate([rows[n] for n in pick])
        mean = operating_point(p[drawn], cohort.false[drawn], weights=shares[drawn], max_loss=max_loss)
        return max(mean, float(np.sort(own[pick])[::-1][int(TAIL * len(pick) + 1e-9)]))

    picks = rng.integers(0, len(patients), size=(SAFE_RESAMPLES, len(patients)))
    return max(
        point(np.arange(len(patients))), float(np.quantile([point(n) for n in picks], SAFE_LEVEL, method="higher"))
    )


def nested_probabilities(
    cohort: Cohort, *, kind: str = "l1_logistic", max_loss: float = 0.05, seed: int = 0
) -> tuple[Float[np.ndarray, " lesions"], np.ndarray]:
    """Probability of being false and verdict (True: false) of every lesion from models that never saw its patient.

    Strength, calibration and operating point are chosen inside each outer fold.
    """
    p = np.full(len(cohort.false), np.nan)
    verdict = np.zeros(len(cohort.false), dtype=bool)
    for rows, test in patient_folds(cohort.patients, cohort.false, folds=OUTER_FOLDS, seed=seed):
        inner = fit(cohort.take(rows), kind=kind, max_loss=max_loss, seed=seed + 1)
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
