"""Scorers: features to the log-odds that a predicted lesion is false. Everything learned from data lives in here."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lesionwise.errors import InputError
from lesionwise.triage.trees import Trees

Table = Float[np.ndarray, "lesions features"]
Scores = Float[np.ndarray, " lesions"]

BINS = 16
"""Bins per feature of boosted trees: weighted quantiles are their slow part, and leaves hold at least 8 lesions anyway."""

WINSOR = (1.0, 99.0)
"""Percentiles beyond which a feature is cut off, so that one strange lesion cannot decide alone."""


@dataclass(frozen=True, eq=False)
class FeaturePreparation:
    """What is done to features before a linear scorer: fill gaps with the median, cut extremes, standardise.

    Learned on the fitting lesions alone - never on those that are judged.
    """

    median: Float[np.ndarray, " features"]
    low: Float[np.ndarray, " features"]
    high: Float[np.ndarray, " features"]
    mean: Float[np.ndarray, " features"]
    sd: Float[np.ndarray, " features"]

    @classmethod
    def learn(cls, table: Table) -> "FeaturePreparation":
        """From the lesions to fit on. A feature without any value gets median 0 and stays out of the way."""
        known = np.isfinite(table)
        filled = np.where(known, table, np.nan)
        filled[:, ~known.any(axis=0)] = 0.0
        median = np.nanmedian(filled, axis=0)
        low, high = np.nanpercentile(filled, WINSOR, axis=0)
        cut = np.clip(np.where(known, table, median), low, high)
        sd = cut.std(axis=0)
        return cls(median, low, high, cut.mean(axis=0), np.where(sd > 1e-12, sd, 1.0))

    def apply(self, table: Table) -> Table:
        """Standardised features: 0 is the mean of the fitting lesions, 1 their standard deviation."""
        filled = np.where(np.isfinite(table), table, self.median)
        return (np.clip(filled, self.low, self.high) - self.mean) / self.sd


class AbstractScorer(ABC):
    """Log-odds of being false from a table of features."""

    @abstractmethod
    def log_odds(self, table: Table) -> Scores:
        """Larger is more probably false."""


@dataclass(frozen=True, eq=False)
class LinearScorer(AbstractScorer):
    """L1 logistic regression: preparation, one coefficient per feature (most are 0), an intercept."""

    preparation: FeaturePreparation
    coefficients: Float[np.ndarray, " features"]
    intercept: float

    def log_odds(self, table: Table) -> Scores:
        """Larger is more probably false."""
        return self.preparation.apply(table) @ self.coefficients + self.intercept

    @classmethod
    def fit(
        cls, table: Table, false: Int[np.ndarray, " lesions"], *, weights: Scores, strength: float
    ) -> "LinearScorer":
        """L1 logistic regression with inverse penalty `strength` (sklearn's C)."""
        from sklearn.linear_model import LogisticRegression

        preparation = FeaturePreparation.learn(table)
        # liblinear penalises the intercept as one more weight; a large scaling makes that penalty negligible.
        learner = LogisticRegression(
            C=strength, l1_ratio=1.0, solver="liblinear", intercept_scaling=100.0, max_iter=500, random_state=0
        )
        learner.fit(preparation.apply(table), false, sample_weight=weights / weights.mean())
        return cls(preparation, learner.coef_[0].astype(float), float(learner.intercept_[0]))

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain numbers for JSON."""
        p = self.preparation
        columns = {"median": p.median, "low": p.low, "high": p.high, "mean": p.mean, "sd": p.sd}
        columns["coefficient"] = self.coefficients
        rows = {name: {key: float(values[i]) for key, values in columns.items()} for i, name in enumerate(names)}
        return {"kind": "l1_logistic", "intercept": self.intercept, "features": rows}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], names: Sequence[str]) -> "LinearScorer":
        """The scorer that `as_dict` wrote."""
        rows = [content["features"][name] for name in names]
        column = {
            key: np.array([row[key] for row in rows], dtype=float)
            for key in ("median", "low", "high", "mean", "sd", "coefficient")
        }
        coefficients = column.pop("coefficient")
        return cls(FeaturePreparation(**column), coefficients, float(content["intercept"]))

    def pruned(self) -> tuple["LinearScorer", Int[np.ndarray, " kept"]]:
        """The same scorer on the features that count, and which they are."""
        kept = np.flatnonzero(self.coefficients != 0)
        p = self.preparation
        less = FeaturePreparation(p.median[kept], p.low[kept], p.high[kept], p.mean[kept], p.sd[kept])
        return replace(self, preparation=less, coefficients=self.coefficients[kept]), kept


@dataclass(frozen=True, eq=False)
class BoostedScorer(AbstractScorer):
    """Gradient boosting on histograms; gaps in the features are its own business."""

    trees: Trees

    def log_odds(self, table: Table) -> Scores:
        """Larger is more probably false."""
        return self.trees.score(table)

    @classmethod
    def fit(
        cls, table: Table, false: Int[np.ndarray, " lesions"], *, weights: Scores, strength: float
    ) -> "BoostedScorer":
        """60 small trees; `strength` is the learning rate."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        learner = HistGradientBoostingClassifier(
            max_iter=60,
            learning_rate=strength,
            max_leaf_nodes=6,
            min_samples_leaf=8,
            l2_regularization=5.0,
            max_bins=BINS,
            early_stopping=False,
            random_state=0,
        )
        learner.fit(table, false, sample_weight=weights / weights.mean())
        return cls(Trees.of(learner))


KINDS: Mapping[str, tuple[type[LinearScorer] | type[BoostedScorer], tuple[float, ...]]] = {
    "l1_logistic": (LinearScorer, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0)),
    "boosting": (BoostedScorer, (0.05,)),
}
"""Kinds of scorers with the strengths that the inner cross-validation chooses among."""


@dataclass(frozen=True)
class Calibration:
    """Platt's line on the log-odds: p = 1 / (1 + exp(-(slope s + intercept)))."""

    slope: float = 1.0
    intercept: float = 0.0

    def probability(self, scores: Scores) -> Scores:
        """Calibrated probability of being false."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.slope * scores + self.intercept, -50, 50)))

    @classmethod
    def learn(cls, scores: Scores, false: Int[np.ndarray, " lesions"], *, weights: Scores) -> "Calibration":
        """From scores of lesions that the scorer has not seen. The slope is kept from turning the order around."""
        from sklearn.linear_model import LogisticRegression

        if len(np.unique(false)) < 2:
            raise InputError("Calibration needs true and false lesions, but all are of one kind.")
        line = LogisticRegression(C=10.0, solver="lbfgs", max_iter=500)
        line.fit(scores[:, None], false, sample_weight=weights / weights.mean())
        return cls(float(max(line.coef_[0, 0], 1e-3)), float(line.intercept_[0]))
