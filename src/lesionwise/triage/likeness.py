"""Whether a scan's lesions are like those of the patients a model was fitted on: beyond them its probabilities mean less."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lesionwise.triage.scorer import Table

MIN_PATIENTS = 10
"""With fewer, what is usual between patients is not known."""
LEVEL = 0.95
"""Share of the fitted patients that count as usual."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """The patients that were fitted on, each as the median of its lesions' features.

    `centre` and `spread` are median and robust standard deviation (1.4826 MAD) over patients; a scan's distance is the
    root mean square of its features' deviations in those; `limit` is the one that `LEVEL` of the fitted patients keep,
    each measured against the others.
    """

    centre: Float[np.ndarray, " features"]
    spread: Float[np.ndarray, " features"]
    limit: float

    @classmethod
    def learn(cls, table: Table, patients: np.ndarray) -> "Likeness | None":
        """From the fitted lesions; None with fewer than `MIN_PATIENTS` patients or without features."""
        names = np.unique(patients)
        if len(names) < MIN_PATIENTS or table.shape[1] == 0:
            return None
        typical = np.stack([_median(table[patients == name]) for name in names])
        distances = [_distance(typical[n], *_usual(np.delete(typical, n, axis=0))) for n in range(len(names))]
        return cls(*_usual(typical), float(np.quantile(distances, LEVEL, method="higher")))

    def distance(self, table: Table) -> float:
        """How far the median lesion of a scan is from those of the fitted patients; 0 without lesions."""
        return _distance(_median(table), self.centre, self.spread) if len(table) else 0.0

    def farthest(self, table: Table, *, count: int = 2) -> list[tuple[int, float]]:
        """Numbers of the features that deviate most, with the scan's median, largest deviation first."""
        here = _median(table)
        deviation = np.nan_to_num(np.abs((here - self.centre) / self.spread))
        return [(int(n), float(here[n])) for n in np.argsort(-deviation, kind="stable")[:count]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; a feature that no patient had is null."""
        return {"centre": _plain(self.centre), "spread": _plain(self.spread), "limit": self.limit}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Likeness":
        """What `as_dict` gave."""
        centre, spread = (
            np.array([np.nan if v is None else v for v in content[name]], dtype=float) for name in ("centre", "spread")
        )
        return cls(centre, spread, float(content["limit"]))


def _median(table: Table) -> Float[np.ndarray, " features"]:
    out = np.full(table.shape[1], np.nan)
    known = np.isfinite(table).any(axis=0)
    out[known] = np.nanmedian(table[:, known], axis=0)
    return out


def _usual(typical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre = _median(typical)
    spread = 1.4826 * _median(np.abs(typical - centre))
    return centre, np.where(spread > 1e-9, spread, np.nan)


def _distance(one: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> float:
    z = (one - centre) / spread
    known = z[np.isfinite(z)]
    return float(np.sqrt(np.mean(np.square(known)))) if len(known) else 0.0


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
