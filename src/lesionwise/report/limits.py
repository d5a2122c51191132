"""Colour limits: symmetric, and the same for all lesions of a scan, so that colours compare."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd


def colour_limit(tops: Sequence[float]) -> float:
    """The median over lesions of the largest magnitude, to two significant digits; 1 if there are no maps.

    Half of the lesions reach full colour and none fades away beside a single strong one.

    >>> colour_limit([0.0101, 0.02345, 0.9])
    0.023
    """
    positive = [top for top in tops if top > 0 and math.isfinite(top)]
    if not positive:
        return 1.0
    limit = float(np.median(positive))
    return round(limit, 1 - math.floor(math.log10(limit)))


def table_tops(lesions: pd.DataFrame, channels: Sequence[str]) -> list[float]:
    """Largest magnitude per explained lesion over all channels, from the table's peaks and troughs."""
    columns = [f"{what}_{channel}" for what in ("peak", "trough") for channel in channels]
    known = [column for column in columns if column in lesions]
    if not known:
        return []
    tops = lesions[known].apply(pd.to_numeric, errors="coerce").abs().max(axis=1)
    return [float(top) for top in tops.dropna()]
