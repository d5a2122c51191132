"""What triage says, for a reader who has ten seconds: first what, then why, then what it is worth.

Triage hands over structure: features with their values and what is usual, and how each is told. Here it becomes sentences.
What an older version wrote as text is shown as it stands.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lesionwise.report.narrative import certainty, number
from lesionwise.report.told import finite

FALSE, KEEP = "probably false", "keep"

SURE = 0.995
"""Percentages above are told as "over 99 %": none would say 100."""

SIGNS: Mapping[str, str] = {
    "thin": "thin and long, as vessels are",
    "fluid_rim": "lines deep fluid, as the ventricles' bright rim does",
    "surface": "at the surface of the brain",
    "small": "smaller than 20 mm³",
}
"""What shape and place suggest, by triage's name for it."""


_EVEN = 0.5
"""From this probability of being false on, a kept lesion is kept for want of certainty, and that is said."""


@dataclass(frozen=True)
class Verdict:
    """What triage says of one lesion.

    `said` is the verdict, `certainty` the probability of being false in words, `lead` what the reasons compare
    with. `seen` takes no part in the verdict.
    """

    said: str
    certainty: str = ""
    lead: str = ""
    reasons: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    false: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any], features: Mapping[str, Mapping[str, str]] | None = None) -> "Verdict | None":
        """The verdict in a row of the table; None if the lesion was not triaged. `features` say how each one is told.

        >>> Verdict.of({"triage_verdict": "keep", "triage_p_false": 0.02, "triage_reasons": "it is large"}).said
        'kept as a lesion'
        >>> Verdict.of({"triage_verdict": "keep", "triage_p_false": 0.8, "triage_reasons": "it is small"}).said
        'not sure enough to call it false'
        """
        verdict, p = row.get("triage_verdict"), finite(row, "triage_p_false")
        told = _read(row.get("triage_reasons"))
        if not isinstance(verdict, str) or p is None:
            return cls("not judged", reasons=(_unjudged(told),)) if told else None
        kept = "kept as a lesion" if p < _EVEN else "not sure enough to call it false"
        return cls(
            said=kept if verdict == KEEP else verdict,
            certainty=f"{_percent(p)} likely" + ("" if verdict == FALSE else " to be false"),
            lead=_lead(verdict == FALSE, doubtful=p >= _EVEN) if told.get("reasons") else "",
            reasons=(*(reason(each, features or {}) for each in told.get("reasons", ())), *told.get("text", ())),
            seen=_seen(told),
            false=verdict == FALSE,
        )


def _lead(is_false: bool, *, doubtful: bool) -> str:
    """Before the reasons; those of a doubtful lesion speak for it, though its probability does not."""
    if is_false:
        return "Unlike typical true lesions"
    return "Still, unlike typical false lesions" if doubtful else "Unlike typical false lesions"


def _read(told: object) -> Mapping[str, Any]:
    """What triage handed over; text that is no JSON comes from an older version and is kept as `text`."""
    if not isinstance(told, str) or not told:
        return {}
    try:
        found = json.loads(told)
    except ValueError:
        found = None
    return found if isinstance(found, Mapping) else {"text": tuple(part for part in told.split("; ") if part)}


def reason(found: Mapping[str, Any], features: Mapping[str, Mapping[str, str]]) -> str:
    """A reason without jargon: what is different, then the value here and the one that is usual.

    >>> far = {"feature": "fluid_mm", "value": 11.0, "typical": 5.1}
    >>> reason(far, {"fluid_mm": {"higher": "it is farther from fluid", "lower": "it is nearer", "shown": "{value} mm"}})
    'it is farther from fluid (11 mm; usual: 5.1)'
    """
    name, value, typical = str(found["feature"]), float(found["value"]), float(found["typical"])
    told = features.get(name, {"higher": f"{name} is higher", "lower": f"{name} is lower", "shown": "{value}"})
    claim, shown = told["higher" if value > typical else "lower"], told["shown"]
    if not shown:
        return claim
    if shown in _SCALES:
        here, usual = (_SCALES[shown](each) for each in (value, typical))
        return f"{claim} ({here}; usual: {usual})"
    return f"{claim} ({shown.format(value=number(value, 2))}; usual: {number(typical, 2)})"


def candidate(row: Mapping[Any, Any], channels: Sequence[str]) -> str:
    """What there is to see at a likely miss; smallness is not said again beside its volume."""
    if isinstance(row.get("words"), str):  # of an older version
        return str(row["words"]).replace("mm3", "mm³")
    parts = []
    if (top := finite(row, "probability_max")) is not None:
        volume = finite(row, "volume_mm3")
        parts.append(f"probability up to {certainty(top)}" + ("" if volume is None else f" in {number(volume, 2)} mm³"))
    for channel in channels:
        contrast = finite(row, f"contrast_{channel}")
        if contrast is not None and abs(contrast) >= 0.2:
            parts.append(f"{channel} {'brighter' if contrast > 0 else 'darker'} than around by {abs(contrast):.1f} SD")
    text = row.get("signs")
    named = text.split(",") if isinstance(text, str) else []
    if seen := [SIGNS.get(name, name) for name in named if name and name != "small"]:
        parts.append(", ".join(seen))
    return "; ".join(parts)


def note(text: str) -> str:
    """A note of triage with the unit as it is printed."""
    return text.replace("mm3", "mm³")


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


def _seen(told: Mapping[str, Any]) -> tuple[str, ...]:
    found = [", ".join(SIGNS.get(name, name) for name in told["signs"])] if told.get("signs") else []
    if relied := told.get("reliance"):
        inside = finite(relied, "inside")
        where = "" if inside is None else f", {100 * inside:.0f} % of that inside the lesion"
        found.append(f"the network relied on {relied['channel']} ({100 * relied['share']:.0f} % of the map{where})")
    return tuple(found)


def _unjudged(told: Mapping[str, Any]) -> str:
    if "known_mm3" not in told:
        return "; ".join(told.get("text", ())).replace("mm3", "mm³")
    low, high = (number(float(each), 2) for each in told["known_mm3"])
    volume = number(float(told["volume_mm3"]))
    return f"at {volume} mm³ it is outside the sizes that the triage model knows ({low} to {high} mm³), so it is kept"


def _percent(p: float) -> str:
    if not 1 - SURE <= p <= SURE:
        return "under 1 %" if p < 0.5 else "over 99 %"
    return f"{100 * p:.0f} %"


def _odds(value: float) -> str:
    return certainty(1 / (1 + math.exp(-value)))


_SCALES = {
    "odds": _odds,
    "volume": lambda value: f"{number(math.exp(value), 2)} mm³",
    "share": lambda value: f"{100 * value:.0f} %",
}
"""Values that are shown on another scale than the feature's: log-odds as probability, ln mm3 as mm³, shares as %."""
