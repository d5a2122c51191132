"""Running mean and variance over draws (Welford 1962), and sums of a few groups of them, by which peaks are told."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Num
from torch import Tensor

from lesionwise.geometry.box import Box

GROUPS = 5
"""Groups of draws: a peak is looked for in all but one of them and read in that one. Each is a map held in memory."""


def maps_held(draws: int) -> int:
    """Maps in memory while a lesion's map is taken from so many draws: its `Moments`, the draw, and a reduction's copy.

    Moments hold a mean, a sum per group and, from two draws on, squares and the half of an antithetic pair that waits.
    """
    return 3 + min(draws, GROUPS) + (2 if draws > 1 else 0)


@dataclass(eq=False)
class Moments:
    """Mean, standard error and group means of the draws of one map.

    Units (draws; with `antithetic`, two consecutive ones) go to the groups in turn.
    """

    antithetic: bool = False
    units: int = 0
    draws: int = 0
    positive: Tensor | None = None
    _mean: Tensor | None = None
    _squares: Tensor | None = None
    _sums: list[Tensor] = field(default_factory=list)
    _waiting: Tensor | None = None

    def add(self, draw: Tensor) -> None:
        """Takes the next draw; overwrites it."""
        self.draws += 1
        if not self.antithetic:
            self._add_unit(draw)
        elif self._waiting is None:
            self._waiting = draw.clone()
        else:
            unit, self._waiting = self._waiting.add_(draw).mul_(0.5), None
            self._add_unit(unit)

    def _add_unit(self, unit: Tensor) -> None:
        group, self.units = self.units % GROUPS, self.units + 1
        if group == len(self._sums):
            self._sums.append(unit.clone())
        else:
            self._sums[group].add_(unit)
        if self._mean is None:
            self._mean = unit.clone()
            return
        if self._squares is None:
            self._squares = torch.zeros_like(unit)
        delta = unit.sub_(self._mean)
        self._mean.add_(delta, alpha=1.0 / self.units)
        self._squares.addcmul_(delta, delta, value=(self.units - 1) / self.units)

    def count_signs(self, draw: Tensor) -> None:
        """Counts per voxel the draws above 0."""
        if self.positive is None:
            self.positive = torch.zeros(draw.shape, dtype=torch.int16, device=draw.device)
        self.positive += draw > 0

    def widen(self, box: Box, union: Box) -> None:
        """Moves the draws taken on `box` to `union`, which holds it; every draw was 0 beyond `box`."""
        self._mean = None if self._mean is None else placed(self._mean, box, union)
        self._squares = None if self._squares is None else placed(self._squares, box, union)
        self._sums = [placed(one, box, union) for one in self._sums]
        self.positive = None if self.positive is None else placed(self.positive, box, union)
        self._waiting = None if self._waiting is None else placed(self._waiting, box, union)

    @property
    def mean(self) -> Tensor:
        """Mean over all units."""
        if self._mean is None:
            raise RuntimeError("A mean needs at least one draw.")
        return self._mean

    @property
    def group_counts(self) -> list[int]:
        """Units in each group that has any."""
        return [len(range(group, self.units, GROUPS)) for group in range(len(self._sums))]

    def group_mean(self, group: int) -> Tensor:
        """Mean over the units of one group."""
        return self._sums[group] / self.group_counts[group]

    @property
    def variance_of_mean(self) -> Tensor | None:
        """Squared Monte-Carlo standard error of the mean, None for fewer than two units."""
        if self.units < 2 or self._squares is None:
            return None
        return self._squares / ((self.units - 1) * self.units)


def placed(values: Num[Tensor, "*lead i j k"], box: Box, union: Box) -> Num[Tensor, "*lead i2 j2 k2"]:
    """Values on a box, with zeros up to a larger one."""
    if box == union:
        return values
    out = values.new_zeros((*values.shape[:-3], *union.shape))
    out[(..., *box.relative_to(union).slices)] = values
    return out
