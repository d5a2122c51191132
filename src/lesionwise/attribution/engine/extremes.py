"""Peak and trough of a noisy map without the bias of maximisation (METHOD section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesionwise.types import MapArray


@dataclass(frozen=True, eq=False)
class Extremes:
    """Largest and smallest signed value per channel, with standard errors.

    Errors are None for maps that are not sampled, NaN where there are too few draws to tell.
    """

    peak: np.ndarray
    trough: np.ndarray
    peak_se: np.ndarray | None = None
    trough_se: np.ndarray | None = None

    @classmethod
    def plain(cls, data: MapArray) -> "Extremes":
        """Of a map without noise."""
        return cls(data.max(axis=(1, 2, 3)), data.min(axis=(1, 2, 3)))

    @classmethod
    def split(cls, means: Sequence[MapArray], variances: Sequence[MapArray | None]) -> "Extremes":
        """The place found on one half of the draws, value and error taken from the other; both ways averaged.

        `means` and `variances` (squared standard errors of the means) belong to the even and the odd units. With one
        half only, the plain extremes with unknown errors.
        """
        if len(means) == 1:
            whole = cls.plain(means[0])
            unknown = np.full(len(whole.peak), np.nan)
            return cls(whole.peak, whole.trough, unknown, unknown.copy())
        even, odd = (mean.reshape(len(mean), -1) for mean in means)
        even_var, odd_var = (
            np.full(even.shape, np.nan) if variance is None else variance.reshape(len(variance), -1)
            for variance in variances
        )
        rows = np.arange(len(even))
        found = []
        for place_fn in (np.argmax, np.argmin):
            at_even, at_odd = place_fn(even, axis=1), place_fn(odd, axis=1)
            value = 0.5 * (odd[rows, at_even] + even[rows, at_odd])
            found.append((value, 0.5 * np.sqrt(odd_var[rows, at_even] + even_var[rows, at_odd])))
        (peak, peak_se), (trough, trough_se) = found
        return cls(peak, trough, peak_se, trough_se)
