"""What one lesion's map says, channel by channel, as numbers: the sentences about it are made of these and nothing else."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.report.profile import Neighbourhood
from lesionwise.report.told import Beside, Push, finite
from lesionwise.saliency import SaliencyMap

DERIVATIVES = ("smoothgradmean", "gradient")
"""Methods whose map is the derivative of the lesion's mean target, for sidecars that do not say it themselves."""

ALIKE = 2.0
"""Controls within this factor of a lesion's volume are of its size."""

RIM_MM = 3.0


def is_derivative(provenance: Mapping[str, Any]) -> bool:
    """Whether sums over such a map are effects."""
    return bool(provenance.get("Derivative", str(provenance.get("Method")) in DERIVATIVES))


def pushes_of(
    saliency: SaliencyMap, around: Neighbourhood, row: Mapping[Any, Any], lesions: pd.DataFrame
) -> tuple[Push, ...]:
    """Every channel's push, the strongest effect first; empty for a map whose sums are no effects."""
    if not is_derivative(saliency.provenance):
        return ()
    found = []
    for channel in saliency.channels:
        values = around.values(saliency, channel)
        inside = values[around.omega]
        rim = (around.distance_mm > 0) & (around.distance_mm <= RIM_MM) & ~around.others & ~around.omega
        effect = float(inside.sum(dtype=float))
        whole = saliency.channel(channel)
        index = np.unravel_index(int(np.abs(whole).argmax()), whole.shape)
        found.append(
            Push(
                channel,
                effect,
                finite(row, f"effect_in_se_{channel}"),
                float(values[rim].sum(dtype=float)),
                finite(row, f"effect_rim_se_{channel}"),
                float((np.sign(inside) * np.sign(effect) < 0).mean()),
                float(whole[index]),
                around.outside_mm(np.asarray(index) + saliency.box.start),
                beside(lesions, row, channel),
            )
        )
    return tuple(sorted(found, key=lambda push: -abs(push.effect)))


def beside(lesions: pd.DataFrame, row: Mapping[Any, Any], channel: str, measure: str = "effect_in") -> Beside | None:
    """The effect of this channel (or another column's measure) in the scan's control regions of this size; None without
    any, and for a control itself."""
    column, volume = f"{measure}_{channel}", finite(row, "volume_mm3")
    if column not in lesions or volume is None or row.get("outcome") == "TN":
        return None
    values = pd.to_numeric(lesions[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    controls = (lesions["outcome"] == "TN").to_numpy(dtype=bool, na_value=False) & np.isfinite(values)
    ratio = lesions["volume_mm3"].to_numpy(dtype=float) / volume
    alike = controls & (ratio >= 1 / ALIKE) & (ratio <= ALIKE)
    chosen = values[alike if alike.any() else controls]
    if not chosen.size:
        return None
    low, middle, high = float(chosen.min()), float(np.median(chosen)), float(chosen.max())
    return Beside(low, middle, high, chosen.size, bool(alike.any()))
