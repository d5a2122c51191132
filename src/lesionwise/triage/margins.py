"""Features of what would have changed the network's mind: margins and changes around, as `lesionwise why` found them.

They are read from the scan's why table: nothing is asked again. A margin is where the decision flips; where it does not flip
within the range tried, the end of the range stands for it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lesionwise.triage.features import Feature, of_channels

MARGINS: tuple[Feature, ...] = (
    Feature("margin_all", "margins", "its margin", "the share of its contrast below which it is lost"),
    Feature("margin_size", "margins", "its margin in size", "how far it must shrink to be lost", "mm"),
    Feature(
        "without_rim_change",
        "margins",
        "dependence on its rim",
        "the change of the log-odds with healthy tissue in its rim",
        "log-odds",
    ),
    Feature(
        "without_neighbours_change",
        "margins",
        "dependence on its neighbours",
        "the change of the log-odds without its neighbours",
        "log-odds",
    ),
)

PER_CHANNEL: tuple[Feature, ...] = (
    Feature("margin", "margins", "its margin on {c}", "the share of its {c} contrast below which it is lost"),
)


def features(channels: Sequence[str]) -> list[Feature]:
    """The features of the family margins; they need the why table."""
    return [*MARGINS, *of_channels(PER_CHANNEL, channels)]


def margin_features(
    why: pd.DataFrame | None, labels: Sequence[int], *, channels: Sequence[str]
) -> dict[int, dict[str, float]]:
    """Family margins of some lesions; nan for those that the why table does not hold, and without one (`why` is None)."""
    names = [feature.name for feature in features(channels)]
    rows = {} if why is None else {int(row["lesion"]): row for row in why.to_dict(orient="records")}
    return {label: {name: _value(rows.get(label), name) for name in names} for label in labels}


def _value(row: dict[str, object] | None, name: str) -> float:
    if row is None:
        return float("nan")
    value = _number(row.get(name))
    return _number(row.get(f"{name}_end")) if np.isnan(value) and name.startswith("margin_") else value


def _number(value: object) -> float:
    return float("nan") if value is None or pd.isna(value) else float(str(value))
