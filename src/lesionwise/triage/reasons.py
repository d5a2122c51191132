"""Why a lesion was judged as it was, as data: the report finds the words.

A concept's say is the change of the log-odds when its features are set to what is typical of the other kind: exact for
linear models, and the same question asked of boosted trees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lesionwise.triage.features import Feature
from lesionwise.triage.model import TriageModel


@dataclass(frozen=True)
class Reason:
    """One concept that speaks for the verdict, and the feature that speaks loudest in it.

    `weight` is its share of the log-odds, positive; `typical` is the median of the kind the lesion is compared with.
    """

    feature: Feature
    value: float
    typical: float
    weight: float
    against: str

    def as_dict(self) -> dict[str, Any]:
        """What the table keeps: the feature by name, its value, what is typical, and its share of the log-odds."""
        rounded = {"value": self.value, "typical": self.typical, "weight": self.weight}
        return {"feature": self.feature.name, **{name: float(f"{value:.4g}") for name, value in rounded.items()}}


def reasons(
    model: TriageModel, features: Float[np.ndarray, " features"], *, false: bool, count: int = 3
) -> list[Reason]:
    """Up to `count` concepts that speak most for the verdict `false`, strongest first; features not known have no say."""
    typical = model.true_typical if false else model.false_typical
    sign = 1.0 if false else -1.0
    swappable = np.isfinite(features) & np.isfinite(typical)
    concepts: dict[str, list[int]] = {}
    for number, feature in enumerate(model.features):
        if swappable[number]:
            concepts.setdefault(feature.concept, []).append(number)
    changes = [*concepts.values(), *([n] for members in concepts.values() for n in members)]
    if not changes:
        return []
    swapped = np.repeat(features[None], len(changes), axis=0)
    for row, members in zip(swapped, changes, strict=True):
        row[members] = typical[members]
    say = sign * (float(model.log_odds(features[None])[0]) - model.log_odds(swapped))
    alone = {members[0]: value for members, value in zip(changes[len(concepts) :], say[len(concepts) :], strict=True)}
    found = []
    for members, weight in zip(concepts.values(), say[: len(concepts)], strict=True):
        loudest = max(members, key=lambda n: alone[n])
        if weight > 1e-9 and features[loudest] != typical[loudest]:
            against = "true" if false else "false"
            found.append(
                Reason(
                    model.features[loudest], float(features[loudest]), float(typical[loudest]), float(weight), against
                )
            )
    return sorted(found, key=lambda reason: -reason.weight)[:count]


def signs(row: Mapping[Any, Any]) -> list[str]:
    """What shape and place suggest, as names; empty if nothing stands out.

    "thin": thin and long, as vessels are; "fluid_rim": lines deep fluid, as the bright rim of the ventricles does;
    "surface": within 6 mm of the brain's surface; "small": below 20 mm3. Rules of thumb, not a part of the verdict.

    >>> signs({"elongation": 0.3, "depth_max_mm": 1.0, "volume_log": 2.0})
    ['thin', 'small']
    """
    found = []
    if row.get("elongation", 1.0) < 0.5 and row.get("depth_max_mm", 99.0) <= 2.0:
        found.append("thin")
    if row.get("fluid_share", 0.0) > 0.15 and row.get("head_depth_mm", 0.0) > 15.0:
        found.append("fluid_rim")
    elif row.get("head_depth_mm", 99.0) < 6.0:
        found.append("surface")
    if row.get("volume_log", 99.0) < np.log(20.0):
        found.append("small")
    return found


def reliance(row: Mapping[Any, Any], channels: Sequence[str]) -> dict[str, Any] | None:
    """Which channel the network relied on, its share of the map, and how much of that lies in the lesion (None where the
    map is 0), by its row of the lesion table; None if the lesion was not explained.

    >>> reliance({"share_FLAIR": 0.8, "share_T1w": 0.2, "mass_in_FLAIR": 1.0, "mass_out_FLAIR": 3.0}, ["FLAIR", "T1w"])
    {'channel': 'FLAIR', 'share': 0.8, 'inside': 0.25}
    """
    shares = {name: share for name in channels if np.isfinite(share := _number(row.get(f"share_{name}")))}
    if not shares:
        return None
    first = max(shares, key=lambda name: shares[name])
    inside, outside = _number(row.get(f"mass_in_{first}")), _number(row.get(f"mass_out_{first}"))
    within = round(inside / (inside + outside), 4) if inside + outside > 0 else None
    return {"channel": first, "share": round(shares[first], 4), "inside": within}


def _number(value: object) -> float:
    """nan for what is no number, as in tables of lesions without a map."""
    return float(value) if isinstance(value, int | float | np.number) else float("nan")
