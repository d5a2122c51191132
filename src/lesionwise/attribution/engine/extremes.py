"""Peak and trough of a noisy map, with a standard error that knows that their place is uncertain (METHOD section 3).

The largest value of a noisy mean is too large. So the place is found on all groups of draws but one and the value is read in
that one, for each group in turn. This is biased low where draws leave the place open, by the more the fewer there are and the
weaker the peak (table in docs/method.md), as the plain peak is biased high: the truth lies between the two on average, and
half of the gap between them is the uncertainty of the place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesionwise.types import MapArray

FEWEST_GROUPS = 4
"""Of fewer groups no standard error is given."""


@dataclass(frozen=True, eq=False)
class Extremes:
    """Largest and smallest signed value per channel, with standard errors of `freedom` degrees of freedom.

    95 % intervals are value +- t(freedom) SE. Errors are None for maps that are not sampled, NaN where there are too few
    draws to tell.
    """

    peak: np.ndarray
    trough: np.ndarray
    peak_se: np.ndarray | None = None
    trough_se: np.ndarray | None = None
    freedom: int = 0

    @classmethod
    def plain(cls, data: MapArray) -> "Extremes":
        """Of a map without noise."""
        return cls(data.max(axis=(1, 2, 3)), data.min(axis=(1, 2, 3)))

    @classmethod
    def of_groups(
        cls,
        groups: Sequence[MapArray],
        counts: Sequence[int],
        *,
        rest: MapArray | None = None,
        rest_variance: MapArray | None = None,
    ) -> "Extremes":
        """From the means of groups of draws with so many independent units each.

        `rest` is added to all of them: a part of the map that was estimated by draws of its own, with its squared standard
        error. With one group only, the plain extremes with unknown errors.
        """
        maps = [mean if rest is None else mean + rest for mean in groups]
        shares = np.asarray(counts, dtype=float) / sum(counts)
        whole = sum(share * one for share, one in zip(shares, maps, strict=True))
        if len(maps) < 2:
            plain = cls.plain(maps[0])
            unknown = np.full(len(plain.peak), np.nan)
            return cls(plain.peak, plain.trough, unknown, unknown.copy())
        (peak, peak_se), (trough, trough_se) = (
            _cross_fitted(maps, shares, whole, rest_variance, sign=sign) for sign in (1.0, -1.0)
        )
        return cls(peak, trough, peak_se, trough_se, len(maps) - 1)


def _cross_fitted(
    maps: Sequence[MapArray], shares: np.ndarray, whole: np.ndarray, rest_variance: MapArray | None, *, sign: float
) -> tuple[np.ndarray, np.ndarray]:
    """Value and standard error per channel: `sign` 1 for the largest, -1 for the smallest."""
    channels, rows = len(whole), np.arange(len(whole))
    values, places = [], []
    for share, one in zip(shares, maps, strict=True):
        others = (sign * (whole - share * one)).reshape(channels, -1)
        place = np.argmax(others, axis=1)
        places.append(place)
        values.append(one.reshape(channels, -1)[rows, place].astype(float))
    read = np.stack(values)
    value = shares @ read
    if len(maps) < FEWEST_GROUPS:
        return value, np.full(channels, np.nan)
    within = len(maps) / (len(maps) - 1.0) * (shares**2) @ (read - value) ** 2
    plain = (sign * whole).reshape(channels, -1).max(axis=1)
    gap = 0.5 * np.maximum(plain - sign * value, 0.0)
    variance = within + gap**2
    if rest_variance is not None:
        variance = variance + rest_variance.reshape(channels, -1)[rows, places[0]]
    return value, np.sqrt(variance)
