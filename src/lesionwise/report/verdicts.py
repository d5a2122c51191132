"""What triage says, for a reader who has ten seconds: first what, then why, then what it is worth.

Triage writes its reasons as sentences into `_triage.tsv`; here they are told without the names of features. What is not
known is shown as it stands.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lesionwise.report.narrative import finite, number

FALSE, KEEP = "probably false", "keep"

SURE = 0.995
"""Probabilities above are told as "over 0.99": two digits would say 1."""

_REASON = re.compile(
    r"(?P<words>.+) is (?P<way>higher|lower) than in (?P<kind>true|false) lesions "
    r"\((?P<value>\S+) against (?P<typical>\S+)(?: (?P<units>.+))?\)"
)
_RELIED = re.compile(
    r"relied on (?P<channel>.+) \((?P<share>\S+ %) of its map(?:, (?P<inside>\S+ %) of that inside it)?\)"
)
_SIZE = re.compile(r"not judged: (?P<volume>\S+) mm3, and the false lesions it was fitted on had (?P<known>.+) mm3")
_FINGERPRINTS = re.compile(r" \([0-9a-f]{8,}, here [0-9a-f]{8,}\)")

_LOOKS = (
    "thin and long, as vessels are",
    "lines deep fluid, as the ventricles' bright rim does",
    "at the surface of the brain",
    "smaller than 20 mm3",
)
"""Beginnings of what triage says of shape and place."""

_TOLD: Mapping[str, tuple[str, str, str]] = {
    "the mean probability": ("its probability is higher", "its probability is lower", "mean {value}"),
    "the highest probability": ("its highest probability is higher", "its highest probability is lower", "{value}"),
    "the highest log-odds": ("its highest probability is higher", "its highest probability is lower", "odds"),
    "the network's doubt (mean entropy)": (
        "the network is less sure of it",
        "the network is surer of it",
        "doubt {value} of at most 1",
    ),
    "the network's doubt around it": (
        "the network is less sure around it",
        "the network is surer around it",
        "doubt {value} of at most 1",
    ),
    "the probability 2 mm around it": (
        "the probability around it is higher",
        "the probability around it is lower",
        "{value}",
    ),
    "the volume (ln mm3)": ("it is larger", "it is smaller", "volume"),
    "the distance from its border to its core": ("it is thicker", "it is thinner", "{value} mm from border to core"),
    "the filling of its bounding box": ("it fills more of its box", "it fills less of its box", "{value}"),
    "the ratio of its second to its longest axis": ("it is rounder", "it is longer", "second to longest axis {value}"),
    "the ratio of its shortest to its longest axis": (
        "it is less flat",
        "it is flatter",
        "shortest to longest axis {value}",
    ),
    "the compactness (core depth against a ball)": (
        "it is more compact",
        "it is less compact",
        "{value}, a ball has 1",
    ),
    "the distance from the midline (head widths)": (
        "it is farther from the midline",
        "it is nearer to the midline",
        "",
    ),
    "the position from back to front (head lengths)": ("it lies farther forward", "it lies farther back", ""),
    "the position from low to high (head heights)": ("it lies higher up in the head", "it lies lower in the head", ""),
    "the depth below the brain's surface": ("it lies deeper", "it lies nearer to the brain's surface", "{value} mm"),
    "the distance to fluid": ("it is farther from fluid", "it is nearer to fluid", "{value} mm"),
    "the share of fluid around it": ("there is more fluid around it", "there is less fluid around it", "share"),
    "the distance to the next lesion": (
        "it is farther from the next lesion",
        "it is nearer to the next lesion",
        "{value} mm",
    ),
}
"""Triage's words for a feature: what is said where it is higher, where it is lower, and how its value is shown."""


@dataclass(frozen=True)
class Verdict:
    """What triage says of one lesion.

    `said` is the verdict, `certainty` the probability of being false in words, `against` the kind of lesion that the
    reasons compare with. `seen` takes no part in the verdict.
    """

    said: str
    certainty: str = ""
    against: str = ""
    reasons: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    false: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Verdict | None":
        """The verdict in a row of the table; None if the lesion was not triaged.

        >>> Verdict.of({"triage_verdict": "keep", "triage_p_false": 0.02, "triage_reasons": "it is large"}).said
        'kept as a lesion'
        """
        verdict, p, told = row.get("triage_verdict"), finite(row, "triage_p_false"), row.get("triage_reasons")
        parts = [part for part in told.split("; ") if part] if isinstance(told, str) else []
        if not isinstance(verdict, str) or p is None:
            return cls("not judged", reasons=tuple(_unjudged(part) for part in parts)) if parts else None
        kinds = {found["kind"] for part in parts if (found := _REASON.fullmatch(part))}
        return cls(
            said={FALSE: FALSE, KEEP: "kept as a lesion"}.get(verdict, verdict),
            certainty=f"{_percent(p)} likely" + ("" if verdict == FALSE else " to be false"),
            against=f"typical {kinds.pop()} lesions" if len(kinds) == 1 else "",
            reasons=tuple(reason(part) for part in parts if not _is_seen(part)),
            seen=tuple(_seen(part) for part in parts if _is_seen(part)),
            false=verdict == FALSE,
        )


def reason(text: str) -> str:
    """A reason without jargon: what is different, then the value here and the one that is usual.

    >>> reason("the highest log-odds is lower than in true lesions (2.9 against 9.3 log-odds)")
    'its highest probability is lower (0.95; usual: over 0.99)'
    >>> reason("the distance to fluid is higher than in true lesions (11 against 5.1 mm)")
    'it is farther from fluid (11 mm; usual: 5.1)'
    """
    found = _REASON.fullmatch(text)
    if found is None:
        return text.replace("mm3", "mm³")
    units = f" {found['units']}" if found["units"] else ""
    values = [found[what].replace("-", "−") for what in ("value", "typical")]
    if found["words"] not in _TOLD:
        return f"{found['words']} is {found['way']} ({values[0]}{units}; usual: {values[1]})"
    higher, lower, shown = _TOLD[found["words"]]
    claim = higher if found["way"] == "higher" else lower
    if not shown:
        return claim
    if shown in _CHANGED:
        values = [_CHANGED[shown](float(found[what])) for what in ("value", "typical")]
        shown = "{value}"
    return f"{claim} ({shown.format(value=values[0])}; usual: {values[1]})"


def note(text: str) -> str:
    """A note of triage without the networks' fingerprints, which stand in its JSON."""
    return _FINGERPRINTS.sub("", text).replace("mm3", "mm³")


def candidate(text: str) -> str:
    """What there is to see at a likely miss; its volume stands at the beginning, so smallness is not said again."""
    return re.sub(r"[;,] smaller than 20 mm3", "", text).replace("mm3", "mm³")


def judge(model: Mapping[str, Any]) -> str:
    """What judged, how it was fitted, its rule and what it is worth, from the facts in triage's JSON; empty without."""
    kinds = {"l1_logistic": "A linear model (L1 logistic regression)", "boosting": "Gradient-boosted trees"}
    if not model.get("kind"):
        return ""
    what = kinds.get(str(model["kind"]), str(model["kind"]))
    families = model.get("families")
    if isinstance(families, list) and families:
        what += f" of {', '.join(map(str, families))}"
    if finite(model, "patients") is not None:
        what += f", fitted on {number(model['patients'])} patients"
        if finite(model, "true_lesions") is not None and finite(model, "false_lesions") is not None:
            what += f" ({number(model['true_lesions'])} true, {number(model['false_lesions'])} false lesions)"
    parts = [what]
    if model.get("rule"):
        parts.append(f"Rule: {model['rule']}")
    validation = model.get("validation")
    if isinstance(validation, Mapping) and (told := _validated(validation)):
        parts.append(told)
    return ". ".join(part.rstrip(".") for part in parts) + "."


def _validated(validation: Mapping[str, Any]) -> str:
    told = []
    auc, low, high = (finite(validation, key) for key in ("auc", "auc_low", "auc_high"))
    if auc is not None:
        told.append(f"AUC {auc:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""))
    for key, words in (("false_removed", "of the false lesions removed"), ("true_lost", "of the true lesions lost")):
        if (share := finite(validation, key)) is not None:
            told.append(f"{100 * share:.0f} % {words}")
    scheme = str(validation.get("scheme", "Validation"))
    return f"{scheme[:1].upper()}{scheme[1:]}: {', '.join(told)}" if told else ""


def _is_seen(part: str) -> bool:
    return part.startswith(_LOOKS) or _RELIED.fullmatch(part) is not None


def _seen(part: str) -> str:
    found = _RELIED.fullmatch(part)
    if found is None:
        return part.replace("mm3", "mm³")
    where = f", {found['inside']} of that inside the lesion" if found["inside"] else ""
    return f"the network relied on {found['channel']} ({found['share']} of the map{where})"


def _unjudged(part: str) -> str:
    found = _SIZE.fullmatch(part)
    if found is None:
        return part.removeprefix("not judged: ").replace("mm3", "mm³")
    volume = number(float(found["volume"]))
    return f"at {volume} mm³ it is outside the sizes that the triage model knows ({found['known']} mm³), so it is kept"


def _percent(p: float) -> str:
    if not 1 - SURE <= p <= SURE:
        return "under 1 %" if p < 0.5 else "over 99 %"
    return f"{100 * p:.0f} %"


def _odds(value: float) -> str:
    p = 1 / (1 + math.exp(-value))
    return "over 0.99" if p > SURE else f"{p:.2f}"


_CHANGED = {
    "odds": _odds,
    "volume": lambda value: f"{number(math.exp(value), 2)} mm³",
    "share": lambda value: f"{100 * value:.0f} %",
}
"""Values that are shown on another scale than the feature's: log-odds as probability, ln mm3 as mm³, shares as %."""
