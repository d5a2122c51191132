"""The map of one instance, with what is known about its certainty."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lesionwise.geometry.box import Box
from lesionwise.types import MapArray


@dataclass(frozen=True, eq=False)
class MapPart:
    """A summand of a map (channels, *box) with its Monte-Carlo standard error, from so many draws."""

    data: MapArray
    box: Box
    se: MapArray | None
    draws: int


@dataclass(frozen=True, eq=False)
class Removal:
    """What contributions answer for: that `difference` (channels, *box) = x - x' is taken away, in the network's units.

    `players` number the parts that can only be taken away as a whole, 0 for none; None where every voxel is its own. Both
    are 0 outside `box` of the scan's grid.
    """

    difference: np.ndarray
    box: Box
    players: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Attribution:
    """A signed, unscaled map on the scan's grid, and its summary numbers.

    `data` (channels, *box) is 0 outside `box`; `se` is its Monte-Carlo standard error per voxel, None for methods that do
    not sample. `peak` and `trough` are the largest and smallest signed value per channel, for sampled maps by
    groups of draws (place found on all but one, value read in that one, averaged; METHOD section 3); their standard errors
    know that the place is uncertain, have `peak_freedom` degrees of freedom (0 if unknown), are NaN with fewer than four
    units and None for methods that do not sample. `target_mean` is the mean
    over Omega of the target at the scan as it is. `converged` is None unless a tolerance was set. `sign_flip_fraction`
    (reduction max) is, per channel, the share of draws whose sign differs from the map's, weighted by |M|. A map that was
    estimated in two `parts` ("fixed" with normalisation statistics held, "stat" what they add) is their sum. Contributions
    carry the `removal` that they answer for; derivatives have none. `region_sums` (regions,
    channels) are sums of the map over the regions asked for, with the standard error that the draws give; None where none
    were asked for, or the map is no derivative of one number (reduction max).
    """

    data: MapArray
    box: Box
    se: MapArray | None
    n_samples: int
    converged: bool | None
    peak: np.ndarray
    trough: np.ndarray
    peak_se: np.ndarray | None
    trough_se: np.ndarray | None
    target_mean: float
    sign_flip_fraction: tuple[float, ...] | None
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, "MapPart"] = field(default_factory=dict)
    removal: Removal | None = None
    peak_freedom: int = 0
    region_sums: np.ndarray | None = None
    region_sums_se: np.ndarray | None = None

    def with_details(self, facts: dict[str, Any]) -> "Attribution":
        """The same map, with more said about it."""
        return replace(self, details={**self.details, **facts})

    def approximated(self, name: str) -> "Attribution":
        """The same map, with one more approximation named in its details."""
        names = [*self.details.get("approximation", []), name]
        return replace(self, details={**self.details, "approximation": names})

    @property
    def snr(self) -> MapArray | None:
        """|M| / SE per voxel, 0 where the map is 0; infinite where every draw gave the same."""
        if self.se is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.data == 0, 0.0, np.abs(self.data) / self.se).astype(self.data.dtype)


def trimmed(box: Box, data: np.ndarray) -> Box:
    """The smallest box within `box` that holds every nonzero value of `data`; one voxel if there is none."""
    hits = np.any(data != 0, axis=0)
    if not hits.any():
        return Box(box.start, (box.start[0] + 1, box.start[1] + 1, box.start[2] + 1)).intersection(box)
    spans = []
    for axis in range(3):
        where = np.flatnonzero(hits.any(axis=tuple(a for a in range(3) if a != axis)))
        spans.append((int(where[0]), int(where[-1]) + 1))
    (a, d), (b, e), (c, f) = spans
    return Box((a, b, c), (d, e, f)).shifted(box.start)
