"""Margins: how far a dial must be turned until the network decides otherwise (minimal counterfactuals)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lesionwise.why.changes import Dial
from lesionwise.why.question import Question

FIRST = 5
"""Points of the first round, the end of the dial included."""
LATER = 3
"""Points inside the bracket in each later round."""
ROUNDS = 3
MOST_PASSES = FIRST + (ROUNDS - 1) * LATER + 1
"""Passes that one margin may cost, its check included: 12."""


@dataclass(frozen=True, eq=False)
class Margin:
    """Where the decision flips on one dial.

    `stays` and `flips` bracket it: at `stays` the network still decides as for the scan, at `flips` no longer; both were
    asked. Both are nan if it decides the same all along the dial (`end` was the last value tried). `verified` says
    that the changed scan at `flips`, asked by ordinary passes, is decided otherwise; None without a flip. Where the
    decision flips more than once, this is the first flip met among the points tried.
    """

    dial: str
    stays: float
    flips: float
    end: float
    passes: int
    verified: bool | None = None

    @property
    def has_flip(self) -> bool:
        """True if the decision changes on the way."""
        return not np.isnan(self.flips)

    @property
    def value(self) -> float:
        """The middle of the bracket; nan without a flip."""
        return 0.5 * (self.stays + self.flips)

    @property
    def resolution(self) -> float:
        """Half of the bracket's width."""
        return 0.5 * abs(self.flips - self.stays)


def find_margins(question: Question, dials: Sequence[Dial]) -> Mapping[str, Margin]:
    """The margin on every dial, by name; at most `MOST_PASSES` passes each.

    All dials are turned together: each round asks about evenly spaced points between the last value that stays and the
    first that flips, `FIRST` over the whole dial and then `LATER`, which leaves a bracket of 1/80 of the dial.
    """
    was = question.unchanged.found
    brackets: dict[str, tuple[float, float]] = {dial.name: (dial.start, np.nan) for dial in dials}
    passes = dict.fromkeys(brackets, 0)
    for number in range(ROUNDS):
        points = {dial.name: _points(brackets[dial.name], dial, first=number == 0) for dial in dials}
        turned = [(dial, value) for dial in dials for value in points[dial.name]]
        inputs = [dial.make_fn(value) for dial, value in turned]
        answers = iter(question.ask(inputs, boxes=[dial.box for dial, _ in turned]))
        for dial in dials:
            told = [(value, next(answers).found != was) for value in points[dial.name]]
            passes[dial.name] += len(told)
            brackets[dial.name] = _narrowed(brackets[dial.name], told)
    margins = {}
    for dial in dials:
        stays, flips = brackets[dial.name]
        if np.isnan(flips):
            margins[dial.name] = Margin(dial.name, np.nan, np.nan, dial.end, passes[dial.name])
            continue
        verified = question.ask_plainly(dial.make_fn(flips)).found != was
        margins[dial.name] = Margin(dial.name, stays, flips, dial.end, passes[dial.name] + 1, verified)
    return margins


def flipped_input(dial: Dial, margin: Margin) -> Tensor | None:
    """The smallest change found that the network decides otherwise about; None if there is none."""
    return dial.make_fn(margin.flips) if margin.has_flip else None


def _points(bracket: tuple[float, float], dial: Dial, *, first: bool) -> list[float]:
    stays, flips = bracket
    if first:
        return np.linspace(dial.start, dial.end, FIRST + 1)[1:].tolist()
    return [] if np.isnan(flips) else np.linspace(stays, flips, LATER + 2)[1:-1].tolist()


def _narrowed(bracket: tuple[float, float], told: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    """The part of the bracket up to the first point that flips."""
    stays, flips = bracket
    for value, flipped in told:
        if flipped:
            return stays, value
        stays = value
    return stays, flips
