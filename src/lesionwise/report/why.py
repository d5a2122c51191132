"""What would have changed the network's mind about a lesion, in words (the table is `lesionwise why`'s)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

_PARTS = {
    "lesion": "the lesion itself",
    "rim": "its rim (0-3 mm)",
    "white": "the white matter around",
    "grey": "the grey matter around",
    "fluid": "the fluid around",
    "others": "other lesions",
    "far": "the rest of the head",
}
_ALL = "all"
_VERDICTS = {
    "stable": "Stable",
    "size differs": "Not stable in size",
    "sign differs": "Not stable, not even in sign",
    "decision differs": "Not stable: asked otherwise, the decision itself changes",
}
_LEAST_MM = 0.1
_WORTH_SAYING = 0.05
"""Share of the largest Shapley value below which a part is not named."""


def why_words(table: pd.DataFrame | None, label: int, channels: Sequence[str]) -> str:
    """The paragraph of one lesion; empty if it was not asked about."""
    rows = None if table is None else table[table["lesion"] == label]
    if rows is None or not len(rows):
        return ""
    row = rows.iloc[0].to_dict()
    found = _true(row["why_found"])
    said = [_contrast(row, channels, found), _size(row, found), _context(row, found), _carried(row, channels)]
    said.append(_stability(row, channels))
    text = " ".join(filter(None, said))
    return f"What would have changed the decision: {text[:1].lower()}{text[1:]}"


def _contrast(row: Mapping[str, Any], channels: Sequence[str], found: bool) -> str:
    lost = _lost(row, found)
    names = [_ALL, *(channels if len(channels) > 1 else ())]
    told = [f"{_fainter(row, name, found)} on {_on(name, channels)}" for name in names if _flips(row, name)]
    never = [_on(name, channels) for name in names if not _flips(row, name)]
    sentences = []
    if told:
        sentences.append(f"It would {lost} if it were {', or '.join(told)}.")
    if never and found:
        sentences.append(f"Taking its contrast away on {' or '.join(never)} would not change the decision.")
    elif never:
        limit = float(row[f"margin_{_ALL}_end"])
        sentences.append(f"Up to {limit:g} times its contrast on {' or '.join(never)} it would still be missed.")
    return " ".join(sentences)


def _fainter(row: Mapping[str, Any], name: str, found: bool) -> str:
    t = float(row[f"margin_{name}"])
    if found:
        return f"{100 * (1 - t):.0f} % fainter"
    contrast = row.get(f"contrast_sd_{name}")
    more = "" if contrast is None or pd.isna(contrast) else f" ({_tenths((t - 1) * float(contrast))} SD more)"
    return f"{t:.2g} times as strong{more}"


def _lost(row: Mapping[str, Any], found: bool) -> str:
    if not found:
        return "have been found"
    return "disappear" if row.get("outcome") == "FP" else "be missed"


def _size(row: Mapping[str, Any], found: bool) -> str:
    if not _flips(row, "size"):
        return ""
    mm = float(row["margin_size"])
    size = f"{mm:.1f} mm" if mm >= _LEAST_MM else f"less than {_LEAST_MM:g} mm"
    how = f"{size} thinner on every side" if found else f"{size} larger on every side"
    also = "also " if _flips(row, _ALL) else ""
    return f"It would {also}{_lost(row, found)} if it were {how}."


def _context(row: Mapping[str, Any], found: bool) -> str:
    said = []
    for name, what in (("rim", "its rim"), ("neighbours", "the other lesions in sight")):
        after = row.get(f"without_{name}_found")
        if after is None or pd.isna(after):
            continue
        change = float(row[f"without_{name}_change"])
        effect = "changes the decision" if _true(after) != found else "does not change the decision"
        said.append(f"healthy white matter in place of {what} {effect} ({_tenths(change)} in log-odds)")
    return (said[0][0].upper() + "; ".join(said)[1:] + ".") if said else ""


def _carried(row: Mapping[str, Any], channels: Sequence[str]) -> str:
    values = {
        (part, channel): float(row[f"shapley_{part}_{channel}"])
        for part in _PARTS
        for channel in channels
        if f"shapley_{part}_{channel}" in row and not pd.isna(row[f"shapley_{part}_{channel}"])
    }
    if not values:
        return ""
    largest = max(abs(value) for value in values.values())
    ranked = sorted(values, key=lambda player: -abs(values[player]))[:3]
    named = [
        f"{_PARTS[part]} on {channel} {_tenths(values[part, channel])}"
        for part, channel in ranked
        if abs(values[part, channel]) >= _WORTH_SAYING * largest
    ]
    return f"What carries it (Shapley values, log-odds): {', '.join(named)}."


def _stability(row: Mapping[str, Any], channels: Sequence[str]) -> str:
    verdict = row.get("stability")
    if verdict is None or pd.isna(verdict):
        return ""
    channel = max(channels, key=lambda name: abs(float(row[f"stability_effect_{name}"])))
    networks = int(float(row["stability_networks"]))
    parts = [f"the effect of {channel} is {_tenths(float(row[f'stability_effect_{channel}']))}"]
    if networks:
        found = int(float(row["stability_networks_found"]))
        parts.append(
            f"{_between(row, 'networks', channel)} over {networks} networks asked alone, of which {found} find it"
        )
    mirrored = float(row[f"stability_mirrored_low_{channel}"])
    seen = (
        "" if _true(row["stability_mirrored_found"]) == _true(row["why_found"]) else ", where the decision is another"
    )
    parts.append(f"{_tenths(mirrored)} in the mirror image{seen}")
    parts.append(f"{_between(row, 'seeds', channel)} under other noise")
    return f"{_VERDICTS[str(verdict)]}: {', '.join(parts)} (log-odds per SD)."


def _between(row: Mapping[str, Any], kind: str, channel: str) -> str:
    low, high = (float(row[f"stability_{kind}_{end}_{channel}"]) for end in ("low", "high"))
    return f"{_tenths(low)} to {_tenths(high)}"


def _flips(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(f"margin_{name}")
    return value is not None and not pd.isna(value)


def _on(name: str, channels: Sequence[str]) -> str:
    if name != _ALL:
        return f"{name} alone"
    return "both channels" if len(channels) == 2 else "all channels"


def _true(value: Any) -> bool:
    """True for True and for what a table made of it."""
    return str(value) in ("True", "1", "1.0")


def _tenths(value: float) -> str:
    """A change with its sign, to one decimal."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")
