"""Error retention: how many errors are left when a reader looks at the most doubtful lesions (Malinin2021, Molchanova2025).

Lesions are kept in the order of their doubt, surest first; those beyond are handed over and count as put right. For lesions that
are either true or false the area under the curve says the same as AUC (area = wrong / 2 * (1 - gain), gain -> 2 AUC - 1 for rare
errors); the curve says what a reader's time buys.
"""

import numpy as np
from jaxtyping import Float

RETAINED = (0.9, 0.8, 0.5)
"""Shares of the lesions that are kept unseen in tables."""


def errors_left(
    doubt: Float[np.ndarray, " lesions"],
    w_true: Float[np.ndarray, " lesions"],
    w_false: Float[np.ndarray, " lesions"],
    retained: float,
) -> float:
    """Share of all errors (false lesions, weighted) that is left among the `retained` share of lesions with the least doubt.

    Lower is better; `retained` itself for doubt that knows nothing. Ties are shared out evenly. NaN without errors.

    >>> one, none = np.ones(4), np.zeros(4)
    >>> doubt, wrong = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.0, 1.0, 0.0, 1.0])
    >>> errors_left(doubt, 1 - wrong, wrong, 0.75)
    0.5
    """
    _, rank = np.unique(doubt, return_inverse=True)
    total = np.bincount(rank, weights=w_true + w_false)
    wrong = np.bincount(rank, weights=w_false, minlength=len(total))
    if wrong.sum() <= 0:
        return float("nan")
    kept = retained * total.sum()
    share = np.clip((kept - (np.cumsum(total) - total)) / np.where(total > 0, total, 1.0), 0.0, 1.0)
    return float((share * wrong).sum() / wrong.sum())


def retention_curve(
    doubt: Float[np.ndarray, " lesions"],
    w_true: Float[np.ndarray, " lesions"],
    w_false: Float[np.ndarray, " lesions"],
    *,
    points: int = 101,
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Shares retained, and the share of all errors left at each."""
    retained = np.linspace(0.0, 1.0, points)
    return retained, np.array([errors_left(doubt, w_true, w_false, float(r)) for r in retained])
