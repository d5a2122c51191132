"""Colours, decided once for page, figure and cohort plots: outcomes, channels and the signed map.

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


OUTCOMES: dict[str, OutcomeStyle] = {
    "TP": OutcomeStyle("#21c795", None, "found", "Found by the network and marked in the reference"),
    "FP": OutcomeStyle("#ffd21f", (5, 3), "false alarm", "Found by the network but not marked in the reference"),
    "FN": OutcomeStyle("#f05fc8", (2, 2), "missed", "Marked in the reference but missed by the network"),
    "US": OutcomeStyle("#59a8ff", (7, 2), "under-segmented", "Found, but it overlaps the reference only a little"),
    "TN": OutcomeStyle("#a3a3ad", (3, 3), "control", "Control region in healthy white matter"),
    "n/a": OutcomeStyle("#f4f4f4", None, "predicted", "Found by the network; no reference was given"),
}

CHANNELS: tuple[str, ...] = ("#e07b39", "#4f8fd9", "#8a63c9", "#4a9c6d", "#b5547c", "#7a7f87")
"""Colours of the input channels in charts, in the model's order."""

POSITIVE_STOPS: tuple[str, ...] = ("#c2311c", "#f4431f", "#ff8a4c")
NEGATIVE_STOPS: tuple[str, ...] = ("#2440c8", "#2f7bf6", "#6cc6ff")
ALPHA_EXPONENT = 0.55
"""Opacity of the map is (|value| / limit) ** ALPHA_EXPONENT: zero is transparent, the limit opaque."""


def outcome_style(outcome: str | None) -> OutcomeStyle:
    """Style of an outcome; None (no reference) has one of its own."""
    return OUTCOMES.get(outcome or "n/a", OUTCOMES["n/a"])


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers from 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def faint(colour: str, alpha: float) -> str:
    """A colour for bands and boxes, as CSS.

    >>> faint("#ffd21f", 0.15)
    'rgba(255,210,31,0.15)'
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
