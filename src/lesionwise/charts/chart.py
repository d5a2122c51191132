"""A figure described once and drawn twice: for print (`printed`: PDF and PNG) and for the page (`interactive`: JSON).

A mark without a colour takes the next of `palette.SERIES`; line styles and markers differ too, for print in grey.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Numbers = Sequence[float] | np.ndarray

Lesions = Sequence[tuple[str, int]]
"""Scan and label of the lesion that each value stands for: on the page its point opens that lesion."""


@dataclass(frozen=True, eq=False)
class Line:
    """A curve, with a band between `low` and `high` where both are given (NaN: no band).

    `reference` marks what was not measured here: drawn as points without a line.
    """

    label: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    colour: str | None = None
    markers: bool = False
    reference: bool = False


@dataclass(frozen=True, eq=False)
class Violin:
    """The distribution of values at one place of a categorical axis; `lesions` are in the order of the values.

    `of` is the number of lesions asked, where not all of them have a value.
    """

    label: str
    values: Numbers
    colour: str | None = None
    lesions: Lesions | None = None
    of: int | None = None


@dataclass(frozen=True, eq=False)
class Bar:
    """One bar, with an interval where there is one. Bars of one label and several `series` stand side by side."""

    label: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    colour: str | None = None
    series: str = ""


@dataclass(frozen=True, eq=False)
class Heat:
    """A table of values as colours: rows along y, columns along x."""

    x: Sequence[str]
    y: Sequence[str]
    values: np.ndarray
    label: str
    limits: tuple[float, float] | None = None


Mark = Line | Violin | Bar | Heat


@dataclass(frozen=True, eq=False)
class Panel:
    """One set of axes. `spans` are shaded stretches of the x axis with a word each; `horizontal` bars read like a list."""

    title: str
    x_label: str
    y_label: str
    marks: Sequence[Mark]
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    x_marks: Sequence[tuple[float, str]] = ()
    zero_line: bool = False
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None
    spans: Sequence[tuple[float, float, str]] = ()
    horizontal: bool = False


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure: panels in rows of `columns` (0: all side by side; None leaves a place empty), its question as the title, and
    the sentence under it. `sample` says how many patients and lesions it shows.
    """

    name: str
    title: str
    panels: Sequence[Panel | None]
    caption: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    columns: int = 0
    sample: str = ""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of panels."""
        columns = self.columns or max(1, len(self.panels))
        return max(1, -(-len(self.panels) // columns)), columns

    @property
    def legend(self) -> str:
        """What stands below the figure: sample and caption."""
        return " ".join(part for part in (f"{self.sample}." if self.sample else "", self.caption) if part)
