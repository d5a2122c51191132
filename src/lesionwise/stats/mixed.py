"""A mixed model with a random intercept per patient, solved on one variance ratio.

y = X b + u[patient] + e. For one grouping the restricted likelihood depends on one number, theta = var(u) / var(e), and
everything else follows in closed form from sums per patient, so that the fit cannot wander off. It equals statsmodels'
MixedLM (a test says so). Standard errors are cluster-robust (sandwich over patients, small-sample factor, t and F with
patients - 1 degrees of freedom), because an effect that varies between patients would make the model's own too small.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float

from lesionwise.errors import InputError
from lesionwise.stats.bootstrap import MIN_PATIENTS, TOO_FEW

_LOG_RATIO = (-12.0, 12.0)


@dataclass(frozen=True, eq=False)
class MixedModel:
    """A fitted model. One row per fixed effect; p-values are two-sided and NaN with fewer than six patients.

    `variance_patient` and `variance_residual` are the REML variances; `icc` = the patients' share of their sum.
    """

    names: tuple[str, ...]
    effects: Float[np.ndarray, " effects"]
    robust_se: Float[np.ndarray, " effects"]
    model_se: Float[np.ndarray, " effects"]
    p: Float[np.ndarray, " effects"]
    robust_covariance: Float[np.ndarray, "effects effects"]
    variance_patient: float
    variance_residual: float
    n_rows: int
    n_patients: int
    note: str = ""

    @property
    def icc(self) -> float:
        """Share of the variance that lies between patients, 0 to 1."""
        total = self.variance_patient + self.variance_residual
        return self.variance_patient / total if total > 0 else float("nan")

    def joint_p(self, names: Sequence[str]) -> float:
        """Are all these effects zero together? Robust Wald test, Hotelling's F with (q, patients - q) freedom."""
        index = [self.names.index(name) for name in names]
        q, g = len(index), self.n_patients
        if g < MIN_PATIENTS or g <= q:
            return float("nan")
        b, v = self.effects[index], self.robust_covariance[np.ix_(index, index)]
        wald = float(b @ np.linalg.pinv(v) @ b)
        return float(scipy.stats.f.sf(wald * (g - q) / ((g - 1) * q), q, g - q))


def random_intercept_model(
    y: Float[np.ndarray, " rows"],
    x: Float[np.ndarray, "rows effects"],
    patients: Sequence[object] | np.ndarray,
    *,
    names: Sequence[str],
) -> MixedModel:
    """Fits y = x b + u[patient] + e by REML. `x` must hold the constant column if one is wanted.

    Raises InputError if columns of `x` depend on one another or rows do not outnumber them.
    """
    n, p = x.shape
    if n <= p or np.linalg.matrix_rank(x) < p:
        raise InputError(f"A model of {p} effects needs more rows than that and independent columns, found {n} rows.")
    groups, member = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    g = len(groups)
    sizes = np.bincount(member).astype(float)
    x_sums, y_sums = np.zeros((g, p)), np.zeros(g)
    np.add.at(x_sums, member, x)
    np.add.at(y_sums, member, y)
    gram, cross, square = x.T @ x, x.T @ y, float(y @ y)

    def solve(log_ratio: float) -> tuple[np.ndarray, np.ndarray, float, float]:
        ratio = np.exp(log_ratio)
        shrink = ratio / (1.0 + ratio * sizes)
        a = gram - (x_sums * shrink[:, None]).T @ x_sums
        b = np.linalg.solve(a, cross - x_sums.T @ (shrink * y_sums))
        rest = square - float(shrink @ y_sums**2) - float(b @ (cross - x_sums.T @ (shrink * y_sums)))
        variance = max(rest, 1e-300) / (n - p)
        deviance = (n - p) * np.log(variance) + float(np.log1p(ratio * sizes).sum()) + np.linalg.slogdet(a)[1]
        return a, b, variance, float(deviance)

    best = scipy.optimize.minimize_scalar(
        lambda t: solve(t)[3], bounds=_LOG_RATIO, method="bounded", options={"xatol": 1e-6}
    ).x
    a, b, variance, _ = solve(float(best))
    ratio = float(np.exp(best))
    inverse = np.linalg.inv(a)
    # Score of each patient: X' V^-1 r, with V^-1 r = r - shrink * sum(r) within the patient.
    residual = y - x @ b
    r_sums = np.bincount(member, weights=residual)
    scores = np.zeros((g, p))
    np.add.at(scores, member, x * (residual - (ratio / (1.0 + ratio * sizes) * r_sums)[member])[:, None])
    factor = g / (g - 1.0) if g > 1 else np.nan
    robust = factor * inverse @ (scores.T @ scores) @ inverse
    se = np.sqrt(np.clip(np.diag(robust), 0.0, None))
    enough = g >= MIN_PATIENTS
    t = np.divide(b, se, out=np.full(p, np.inf), where=se > 0)
    return MixedModel(
        names=tuple(names),
        effects=b,
        robust_se=se,
        model_se=np.sqrt(variance * np.diag(inverse)),
        p=2.0 * scipy.stats.t.sf(np.abs(t), g - 1) if enough else np.full(p, np.nan),
        robust_covariance=robust,
        variance_patient=ratio * variance,
        variance_residual=variance,
        n_rows=n,
        n_patients=g,
        note="" if enough else TOO_FEW,
    )
