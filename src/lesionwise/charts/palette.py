"""Colours, decided once for page, print, notebook and experiments: outcomes, series (channels) and the signed map.

Outcome colours stay apart under the three dichromacies (a test simulates them) and are never the only sign: contours
differ by line style and every badge carries its letters.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class OutcomeStyle:
    """How one outcome looks and what it is called."""

    colour: str
    dash: tuple[int, int] | None
    short: str
    meaning: str

    @property
    def ink(self) -> str:
        """The colour of letters on this one: black or white, whichever contrasts more."""
        red, green, blue = ((part / 255) ** 2.2 for part in rgb(self.colour))
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        return "#10131a" if (luminance + 0.05) ** 2 > 0.0525 else "#ffffff"


OUTCOMES: dict[str, OutcomeStyle] = {
    "TP": OutcomeStyle("#0c9660", None, "found", "Found by the network and marked in the reference"),
    "FP": OutcomeStyle("#dfa000", (5, 3), "false alarm", "Found by the network but not marked in the reference"),
    "FN": OutcomeStyle("#ee4fd6", (2, 2), "missed", "Marked in the reference but missed by the network"),
    "US": OutcomeStyle("#7656e0", (7, 2), "under-segmented", "Found, but it overlaps the reference only a little"),
    "TN": OutcomeStyle("#a0a0aa", (3, 3), "control", "Control region in healthy white matter"),
    "n/a": OutcomeStyle("#1aa5a5", None, "predicted", "Found by the network; no reference was given"),
}

SERIES: tuple[str, ...] = (
    "#5f6f86",
    "#b08a4a",
    "#8f76ab",
    "#5a9182",
    "#a5687d",
    "#98a0ab",
    "#2f343e",
    "#c9b48a",
)
"""Colours of what is neither an outcome nor a sign (channels in the model's order, networks, fills): muted hues, since red
and blue mean for and against. Line styles, markers and hatches tell them apart too."""

POSITIVE_STOPS: tuple[str, ...] = ("#c2311c", "#f4431f", "#ff8a4c")
NEGATIVE_STOPS: tuple[str, ...] = ("#2440c8", "#2f7bf6", "#6cc6ff")
ALPHA_EXPONENT = 0.55
"""Opacity of the map is (|value| / limit) ** ALPHA_EXPONENT: zero is transparent, the limit opaque."""


def outcome_style(outcome: str | None) -> OutcomeStyle:
    """Style of an outcome; None (no reference) has one of its own."""
    return OUTCOMES.get(outcome or "n/a", OUTCOMES["n/a"])


def series_colour(number: int) -> str:
    """Colour of the `number`th channel, network or other series; from the first again after the last."""
    return SERIES[number % len(SERIES)]


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers from 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def faint(colour: str, alpha: float) -> str:
    """A colour for bands and boxes, as CSS.

    >>> faint("#dfa000", 0.15)
    'rgba(223,160,0,0.15)'
    """
    red, green, blue = rgb(colour)
    return f"rgba({red},{green},{blue},{alpha})"


def signed_lut(steps: int = 255) -> UInt8[np.ndarray, "steps 4"]:
    """RGBA of the signed map from -limit (first row) to +limit (last row); an odd number of steps centres on zero."""
    t = np.linspace(-1, 1, steps)
    rgba = np.zeros((steps, 4))
    for sign, stops in ((-1, NEGATIVE_STOPS), (1, POSITIVE_STOPS)):
        side = np.sign(t) == sign
        places = np.linspace(0, 1, len(stops))
        for band in range(3):
            rgba[side, band] = np.interp(np.abs(t[side]), places, [rgb(stop)[band] for stop in stops])
    rgba[:, 3] = 255 * np.abs(t) ** ALPHA_EXPONENT
    return np.round(rgba).astype(np.uint8)


def signed_rgba(
    values: Float[np.ndarray, "*shape"], *, limit: float, opacity: float = 1.0
) -> Float[np.ndarray, "*shape 4"]:
    """Colours from 0 to 1 of signed values; beyond the limit the colour stays that of the limit."""
    lut = signed_lut().astype(float) / 255
    lut[:, 3] *= opacity
    index = np.round((np.clip(values / limit, -1, 1) + 1) / 2 * (len(lut) - 1)).astype(int)
    return lut[index]
