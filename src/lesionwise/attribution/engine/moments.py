"""Running mean and variance over draws (Welford 1962), in two halves so that peaks can be estimated without bias."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Num
from torch import Tensor

from lesionwise.geometry.box import Box


@dataclass(eq=False)
class Half:
    """Welford's mean and sum of squared deviations over the units of one parity."""

    count: int = 0
    mean: Tensor | None = None
    squares: Tensor | None = None

    def add(self, unit: Tensor) -> None:
        """Takes one more unit; overwrites `unit`."""
        self.count += 1
        if self.mean is None:
            self.mean = unit.clone()
            return
        if self.squares is None:
            self.squares = torch.zeros_like(unit)
        delta = unit.sub_(self.mean)
        self.mean.add_(delta, alpha=1.0 / self.count)
        self.squares.addcmul_(delta, delta, value=(self.count - 1) / self.count)

    @property
    def variance_of_mean(self) -> Tensor | None:
        """Squared standard error, None for fewer than two units."""
        if self.count < 2 or self.squares is None:
            return None
        return self.squares / ((self.count - 1) * self.count)


@dataclass(eq=False)
class Moments:
    """Mean, standard error and split halves of the draws of one map.

    Even units go to one half, odd ones to the other. With `antithetic` draws two consecutive ones make a unit.
    """

    antithetic: bool = False
    halves: tuple[Half, Half] = field(default_factory=lambda: (Half(), Half()))
    draws: int = 0
    positive: Tensor | None = None
    _waiting: Tensor | None = None

    def add(self, draw: Tensor) -> None:
        """Takes the next draw; overwrites it."""
        self.draws += 1
        if not self.antithetic:
            self.halves[(self.draws - 1) % 2].add(draw)
        elif self._waiting is None:
            self._waiting = draw.clone()
        else:
            unit, self._waiting = self._waiting.add_(draw).mul_(0.5), None
            self.halves[(self.draws // 2 - 1) % 2].add(unit)

    def count_signs(self, draw: Tensor) -> None:
        """Counts per voxel the draws above 0."""
        if self.positive is None:
            self.positive = torch.zeros(draw.shape, dtype=torch.int16, device=draw.device)
        self.positive += draw > 0

    def widen(self, box: Box, union: Box) -> None:
        """Moves the draws taken on `box` to `union`, which holds it; every draw was 0 beyond `box`."""
        for half in self.halves:
            half.mean = None if half.mean is None else placed(half.mean, box, union)
            half.squares = None if half.squares is None else placed(half.squares, box, union)
        self.positive = None if self.positive is None else placed(self.positive, box, union)
        self._waiting = None if self._waiting is None else placed(self._waiting, box, union)

    @property
    def units(self) -> int:
        """Independent units taken."""
        return self.halves[0].count + self.halves[1].count

    @property
    def mean(self) -> Tensor:
        """Mean over all units."""
        even, odd = self.halves
        if even.mean is None:
            raise RuntimeError("A mean needs at least one draw.")
        if odd.mean is None:
            return even.mean
        return (even.mean * even.count + odd.mean * odd.count) / self.units

    @property
    def variance_of_mean(self) -> Tensor | None:
        """Squared Monte-Carlo standard error of the mean, None for fewer than two units (Chan's merge of the halves)."""
        even, odd = self.halves
        if even.mean is None or odd.mean is None or self.units < 2:
            return None
        squares = (odd.mean - even.mean).square() * (even.count * odd.count / self.units)
        for half in self.halves:
            if half.squares is not None:
                squares = squares + half.squares
        return squares / ((self.units - 1) * self.units)


def placed(values: Num[Tensor, "*lead i j k"], box: Box, union: Box) -> Num[Tensor, "*lead i2 j2 k2"]:
    """Values on a box, with zeros up to a larger one."""
    if box == union:
        return values
    out = values.new_zeros((*values.shape[:-3], *union.shape))
    out[(..., *box.relative_to(union).slices)] = values
    return out
