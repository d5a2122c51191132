"""Why a lesion was judged as it was, in words.

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

    def __str__(self) -> str:
        return (
            f"{self.feature.words} is {'higher' if self.value > self.typical else 'lower'} than in {self.against} lesions "
            f"({_short(self.value)} against {_short(self.typical)}{_unit(self.feature.units)})"
        )


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


def looks_like(row: Mapping[Any, Any]) -> str:
    """What shape and place suggest, in a few words; empty if nothing stands out.

    Rules of thumb on named features, not a part of the verdict.
    """
    found = []
    if row.get("elongation", 1.0) < 0.5 and row.get("depth_max_mm", 99.0) <= 2.0:
        found.append("thin and long, as vessels are")
    if row.get("fluid_share", 0.0) > 0.15 and row.get("head_depth_mm", 0.0) > 15.0:
        found.append("lines deep fluid, as the ventricles' bright rim does")
    elif row.get("head_depth_mm", 99.0) < 6.0:
        found.append("at the surface of the brain")
    if row.get("volume_log", 99.0) < np.log(20.0):
        found.append("smaller than 20 mm3")
    return ", ".join(found)


def relied_on(row: Mapping[Any, Any], channels: Sequence[str]) -> str:
    """Which channel the network relied on and how much of that lies in the lesion, by its row of the lesion table.

    Empty if the lesion was not explained.

    >>> relied_on({"share_FLAIR": 0.8, "share_T1w": 0.2, "mass_in_FLAIR": 1.0, "mass_out_FLAIR": 3.0}, ["FLAIR", "T1w"])
    'relied on FLAIR (80 % of its map, 25 % of that inside it)'
    """
    shares = {name: share for name in channels if np.isfinite(share := _number(row.get(f"share_{name}")))}
    if not shares:
        return ""
    first = max(shares, key=lambda name: shares[name])
    inside, outside = _number(row.get(f"mass_in_{first}")), _number(row.get(f"mass_out_{first}"))
    where = f", {100 * inside / (inside + outside):.0f} % of that inside it" if inside + outside > 0 else ""
    return f"relied on {first} ({100 * shares[first]:.0f} % of its map{where})"


def _number(value: object) -> float:
    """nan for what is no number, as in tables of lesions without a map."""
    return float(value) if isinstance(value, int | float | np.number) else float("nan")


def _short(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def _unit(units: str) -> str:
    return "" if units in ("1", "map", "target", "ln") else f" {units}"
