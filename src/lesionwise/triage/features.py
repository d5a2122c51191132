"""What one feature of triage is: a number per lesion, the family and concept it counts in, and how it is said in words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Told:
    """How a reader is told that a feature is higher or lower than usual, and how its value is shown.

    `shown` is a text with `{value}`, empty where the value says nothing to a reader, or one of the scales that the report
    knows: "odds" (log-odds as probability), "volume" (ln mm3 as mm3), "share" (per cent).
    """

    higher: str
    lower: str
    shown: str = "{value}"


@dataclass(frozen=True)
class Feature:
    """One number per lesion.

    `concept` groups features that say the same thing, so that three reasons are three different ones. `words` name it:
    "<words> is higher (or lower)". `told` says it without jargon, where there is such a way.
    """

    name: str
    family: str
    concept: str
    words: str
    units: str = "1"
    told: Told | None = None

    def phrased(self) -> Told:
        """Both phrasings, from `words` where none were written."""
        units = "" if self.units in ("1", "map", "target", "ln") else f" {self.units}"
        return self.told or Told(f"{self.words} is higher", f"{self.words} is lower", f"{{value}}{units}")


def of_channels(features: Iterable[Feature], channels: Sequence[str]) -> list[Feature]:
    """The features of every channel: `{c}` in their texts is the channel's name, and their names end in it."""
    return [
        replace(
            feature,
            name=f"{feature.name}_{channel}",
            concept=feature.concept.format(c=channel),
            words=feature.words.format(c=channel),
        )
        for channel in channels
        for feature in features
    ]
