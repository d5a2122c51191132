"""Words about one lesion: what it is, what its own brightness does to the output, and the warnings a reader needs.

The map is a derivative: it says what would raise or lower the network's output for the lesion, not why tissue looks
as it does. The sentences keep to that, and hold no number that is not in `told`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lesionwise.charts.palette import outcome_style
from lesionwise.report.told import Beside, Drawn, Push, finite

CONFLUENT_MM3 = 1000.0
"""Above this volume a component is likely several lesions grown together (2 % of lesions, 72 % of their volume)."""

NOISE_SIGMAS = 3.0
"""A peak below this many standard errors does not stand out of the Monte-Carlo noise."""


def number(value: Any, digits: int = 3) -> str:
    """A number for a sentence: `digits` significant digits (larger numbers whole), a real minus sign, n/a for what is missing.

    >>> number(-0.01234), number(1351.2), number(float("nan"))
    ('−0.0123', '1\u202f351', 'n/a')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "n/a"
    if not isinstance(value, (int, float)):
        value = float(value)
    if abs(value) >= min(1000, 10**digits):
        return f"{value:,.0f}".replace(",", "\u202f").replace("-", "−")
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}·10^{int(exponent)}"
    return text.replace("-", "−")


def short_units(units: str) -> str:
    """The unit for a sentence; the figures' axes name it in full.

    >>> short_units("log-odds per standard deviation of the channel in the head")
    'log-odds per SD'
    """
    return (
        units.replace("standard deviation", "SD")
        .removesuffix(" of the channel in the head")
        .removesuffix(" of the channel")
    )


def certainty(p: float) -> str:
    """A probability that is never told as nothing or all: two digits would round it there.

    >>> certainty(0.997), certainty(0.871), certainty(0.0001)
    ('over 0.99', '0.87', 'under 0.01')
    """
    if p > 0.99:
        return "over 0.99"
    return "under 0.01" if p < 0.01 else f"{p:.2f}"


def headline(row: Mapping[str, Any], drawn: Drawn | None = None) -> str:
    """Outcome, size, certainty, and how much of the reference was drawn."""
    style = outcome_style(row.get("outcome"))
    volume, probability = finite(row, "volume_mm3"), finite(row, "probability_mean")
    parts = [style.meaning]
    if volume is not None:
        parts.append(f"{number(volume)} mm³")
    if probability is not None:
        parts.append(f"mean probability {certainty(probability)}")
    said = ", ".join(parts) + "."
    return f"{said} {covered(drawn)}" if drawn is not None else said


def covered(drawn: Drawn) -> str:
    """How much of the reference lesions that it meets was drawn."""
    which = (
        "the reference lesion it covers" if drawn.lesions == 1 else f"the {drawn.lesions} reference lesions it covers"
    )
    named = f" (number {', '.join(map(str, drawn.numbers))})" if drawn.numbers else ""
    return f"It draws {number(drawn.shared_mm3)} of the {number(drawn.reference_mm3)} mm³ of {which}{named}."


def place(side: str, where: str, contrast_sd: Mapping[str, float]) -> str:
    """What a reader checks by eye: where it lies, and how it stands out from the tissue around it.

    >>> place("left", "periventricular", {"FLAIR": 1.84, "T1w": -0.61})
    'Left, periventricular. FLAIR 1.8 SD brighter, T1w 0.6 SD darker than 1–4 mm around.'
    """
    located = ", ".join(part for part in (side, where) if part)
    told = [
        f"{channel} {abs(value):.1f} SD {'brighter' if value > 0 else 'darker'}"
        for channel, value in contrast_sd.items()
        if abs(value) >= 0.05
    ]
    parts = [f"{located[:1].upper()}{located[1:]}."] if located else []
    if told:
        parts.append(f"{', '.join(told)} than 1–4 mm around.")
    elif contrast_sd:
        parts.append(f"As bright as its surroundings on {', '.join(contrast_sd)}.")
    return " ".join(parts)


def sentences(row: Mapping[str, Any], pushes: Sequence[Push], *, units: str) -> list[str]:
    """What the map says of this lesion: the effect of its own brightness per channel beside that of controls, of the rim,
    and where the push is. Every number is one of `pushes`."""
    if not pushes:
        return []
    target = units.split(" per ")[0] or "output"
    held = finite(row, "target_mean")
    # A missed lesion and a control were not drawn: what would have to change is told, not what held it up.
    would = row.get("outcome") in ("FN", "TN")
    lead = f"The network holds it at a {target} of {number(held)}. " if would and held is not None else ""
    verb = "would move" if would else "moves"
    told = "; ".join(f"{push.channel} by {signed(push.effect, push.se)}{_doubt(push)}" for push in pushes)
    first = f"{lead}One SD brighter throughout it {verb} its {target}: {told}."
    if compared := [push for push in pushes if push.beside is not None]:
        first += f" {_beside(compared)}"
    rim = "; ".join(f"{push.channel} {signed(push.rim, push.rim_se)}" for push in pushes)
    return [first, f"In the 3 mm around it: {rim}. {' '.join(_where(push) for push in pushes)}"]


def unmeasured(method: str, top: float | None) -> str:
    """What is said of a map that locates but does not measure (Grad-CAM++ and its kin)."""
    strongest = f" (largest value {number(top)})" if top is not None else ""
    return (
        f"This is a {method} map: it shows where the network's deep features for this lesion are strongest{strongest}, never "
        "against. It locates but does not measure: its values have no unit and do not compare between lesions."
    )


def per_voxel(units: str) -> str:
    """What is said of a quantitative map whose sum over the lesion is no effect (reduction max, contributions)."""
    return (
        f"This map has values in {short_units(units)}, but its sum over the lesion is not the effect of brightening it: "
        "compare its peaks between lesions of one size only."
    )


NO_MAP = "This lesion has no map: it was not among those chosen to be explained."


def signed(value: float, se: float | None, *, told: bool = True) -> str:
    """A change with its sign and, if known, its standard error in as many digits as that is worth; `told` False leaves the
    error out.

    >>> signed(1.2345, 0.2), signed(-0.5, None), signed(0.01234, 0.0004), signed(1.2345, 0.2, told=False)
    ('+1.2 ± 0.2', '−0.5', '+0.0123 ± 0.0004', '+1.2')
    >>> signed(-0.31332, 0.00958)
    '−0.313 ± 0.010'
    """
    if se is None or se <= 0:
        text = number(value)
    else:
        # One digit of the error, two where it begins with 1: both as it is when rounded.
        leading, exponent = f"{se:.0e}".split("e")
        digits = min(max(0, -int(exponent) + (1 if leading == "1" else 0)), 8)
        text = f"{value:.{digits}f}{f' ± {se:.{digits}f}' if told else ''}".replace("-", "−")
    return text if text.startswith("−") else f"+{text}"


def _doubt(push: Push) -> str:
    unclear = push.se is not None and abs(push.effect) < 2 * push.se
    return " (within Monte-Carlo noise)" if unclear else ""


def _beside(pushes: Sequence[Push]) -> str:
    told = []
    for push in pushes:
        if (other := push.beside) is None:
            continue
        low, high = (signed(value, push.se, told=False) for value in (other.low, other.high))
        told.append(f"{push.channel} {low if low == high else f'{low} to {high}'}, {_compared(push, other)}")
    first = next(push.beside for push in pushes if push.beside is not None)
    which = "of this size" if first.alike else "of other sizes"
    return f"Healthy tissue {which} ({first.count} control region{'' if first.count == 1 else 's'}): {'; '.join(told)}."


_NEXT_TO_NOTHING = 0.2
"""Share of a lesion's effect up to which controls of the other sign are called weaker."""


def _compared(push: Push, other: Beside) -> str:
    """Whether controls answer as strongly: within their range, or two standard errors of it, they do."""
    slack = 2 * (push.se or 0.0)
    if other.low - slack <= push.effect <= other.high + slack:
        return "as here"
    strengths = (abs(other.low), abs(other.high))
    if other.low * other.high > 0 > other.low * push.effect and min(strengths) > _NEXT_TO_NOTHING * abs(push.effect):
        return "the other way"
    if other.low * other.high < 0 or other.low * push.effect < 0:
        return "weaker than here" if abs(push.effect) > max(strengths) else "unlike here"
    return "weaker than here" if abs(push.effect) > max(strengths) else "stronger than here"


_MIXED = 0.4
"""Share of a lesion's voxels that push against the rest from which the push is called mixed."""


def _where(push: Push) -> str:
    share = f"in {100 * (1 - push.against):.0f} % of it"
    if push.against > _MIXED:
        pushes = f"pushes both ways, {share} as its sum does"
    else:
        pushes = f"pushes one way {'throughout it' if push.against < 0.005 else share}"
    if push.strongest_mm is None:
        far = "far outside"
    else:
        far = "inside" if push.strongest_mm == 0 else f"{number(push.strongest_mm, 2)} mm outside"
    side = "for" if push.strongest > 0 else "against"
    return f"{push.channel} {pushes}; its strongest value speaks {side} the lesion and lies {far}."


def warnings(row: Mapping[str, Any], channels: Sequence[str], *, touches_edge: bool) -> list[str]:
    """What to keep in mind about this lesion's figures, most serious first."""
    found = []
    if row.get("converged") in (False, 0, 0.0, "False", "false"):
        found.append("The map has not converged: the standard error is above the tolerance asked for.")
    quiet = []
    for channel in channels:
        peak, se = finite(row, f"peak_{channel}"), finite(row, f"peak_se_{channel}")
        measured = finite(row, f"effect_in_se_{channel}") is not None  # then the sentence says it, of the effect
        if not measured and peak is not None and se is not None and se > 0 and peak < NOISE_SIGMAS * se:
            quiet.append(channel)
    if quiet:
        found.append(
            f"Monte-Carlo noise: the {' and '.join(quiet)} peak lies within {NOISE_SIGMAS:g} standard errors of zero; more "
            "samples would tell."
        )
    if touches_edge:
        found.append("The lesion touches the border of the image: its surroundings are incomplete.")
    volume = finite(row, "volume_mm3")
    if volume is not None and volume > CONFLUENT_MM3 and row.get("outcome") != "TN":
        found.append(f"Confluent: at {number(volume)} mm³ this is probably several lesions grown together.")
    return found
