"""Words about one lesion: a plain sentence on what drove it, and the warnings a reader needs.

The map is a derivative: it says what would raise or lower the network's output for the lesion, not why tissue looks
as it does. The sentences keep to that.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lesionwise.charts.palette import outcome_style

CONFLUENT_MM3 = 1000.0
"""Above this volume a component is likely several lesions grown together (2 % of lesions, 72 % of their volume)."""

NOISE_SIGMAS = 3.0
"""A peak below this many standard errors does not stand out of the Monte-Carlo noise."""

FAINT = 0.02
"""A mean below this share of the channel's largest magnitude is said to have no clear direction."""


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


def finite(row: Mapping[str, Any], column: str) -> float | None:
    """A value of the table, None if the column is missing or holds n/a."""
    value = row.get(column)
    if value is None or isinstance(value, str):
        return None
    return float(value) if math.isfinite(float(value)) else None


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


def headline(row: Mapping[str, Any]) -> str:
    """Outcome, size and certainty in one line."""
    style = outcome_style(row.get("outcome"))
    volume, probability = finite(row, "volume_mm3"), finite(row, "probability_mean")
    parts = [style.meaning]
    if volume is not None:
        parts.append(f"{number(volume)} mm³")
    if probability is not None:
        parts.append(f"mean probability {probability:.2f}")
    return ", ".join(parts) + "."


def sentence(row: Mapping[str, Any], channels: Sequence[str], *, units: str, quantitative: bool = True) -> str:
    """What drove this lesion, from its row of the table: which channel, how strongly, and in which direction where."""
    peaks = {channel: finite(row, f"peak_{channel}") for channel in channels}
    if all(value is None for value in peaks.values()):
        return "This lesion has no map: it was not among those chosen to be explained."
    shares = {channel: finite(row, f"share_{channel}") for channel in channels}
    ranked = sorted(channels, key=lambda channel: -1.0 if (share := shares[channel]) is None else share, reverse=True)
    first = ranked[0]
    if not quantitative:
        return (
            f"The network's deep features for this lesion are strongest at the marked place (largest value "
            f"{number(peaks[first])}). This method locates but does not measure: its values do not compare."
        )
    parts = [_weight(first, shares[first], len(channels), peaks[first], finite(row, f"peak_se_{first}"), units)]
    for channel in ranked:
        share = shares[channel]
        if channel == first or share is None or share >= 0.1:
            parts.append(_direction(row, channel))
        else:
            parts.append(f"{channel} hardly matters ({share:.0%}).")
    return " ".join(part for part in parts if part)


def _weight(channel: str, share: float | None, count: int, peak: float | None, se: float | None, units: str) -> str:
    noise = f" ± {number(se, 2)}" if se is not None else ""
    strongest = f"strongest push {number(peak)}{noise} {short_units(units)}" if peak is not None else ""
    if share is None or count < 2:
        return f"The output for this lesion answers to {channel}; {strongest}." if strongest else ""
    if share >= 0.6:
        verb = f"{channel} drives this lesion: {share:.0%} of the map's total weight"
    elif share >= 0.4:
        verb = f"The channels weigh about the same; {channel} holds {share:.0%} of the map's total weight"
    else:
        verb = f"No channel dominates; {channel} leads with {share:.0%} of the map's total weight"
    return f"{verb}; {strongest}." if strongest else f"{verb}."


def _direction(row: Mapping[str, Any], channel: str) -> str:
    inside, around = finite(row, f"mean_in_{channel}"), finite(row, f"mean_shell_0_3mm_{channel}")
    top = max((abs(v) for v in (finite(row, f"peak_{channel}"), finite(row, f"trough_{channel}")) if v), default=0.0)
    if inside is None or top == 0:
        return ""
    if abs(inside) < FAINT * top:
        return f"{channel} inside the lesion has no clear direction on average."
    word = "Brighter" if inside > 0 else "Darker"
    said = f"{word} {channel} inside the lesion speaks for it"
    if around is None or abs(around) < FAINT * top:
        return said + "; the 3 mm around it hardly count on average."
    if (around > 0) == (inside > 0):
        return said + ", and so does " + ("brighter" if around > 0 else "darker") + " signal within 3 mm around it."
    return said + f"; {word.lower()} signal within 3 mm around it speaks against it."


def warnings(row: Mapping[str, Any], channels: Sequence[str], *, touches_edge: bool) -> list[str]:
    """What to keep in mind about this lesion's figures, most serious first."""
    found = []
    if row.get("converged") in (False, 0, 0.0, "False", "false"):
        found.append("The map has not converged: the standard error is above the tolerance asked for.")
    quiet = []
    for channel in channels:
        peak, se = finite(row, f"peak_{channel}"), finite(row, f"peak_se_{channel}")
        if peak is not None and se is not None and se > 0 and peak < NOISE_SIGMAS * se:
            quiet.append(channel)
    if quiet:
        found.append(
            f"Not above noise: the {' and '.join(quiet)} peak lies within {NOISE_SIGMAS:g} standard errors of zero."
        )
    if touches_edge:
        found.append("The lesion touches the border of the image: its surroundings are incomplete.")
    volume = finite(row, "volume_mm3")
    if volume is not None and volume > CONFLUENT_MM3:
        found.append(f"Confluent: at {number(volume)} mm³ this is probably several lesions grown together.")
    return found
