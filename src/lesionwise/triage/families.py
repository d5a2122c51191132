"""The families of features: which there are, what each costs, and every feature of a model by name.

A family is one file that declares its features and measures them; this registry is the only other place it stands in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lesionwise.errors import InputError
from lesionwise.triage import baselines, context, disagreement, margins, signed, structural
from lesionwise.triage.features import Feature
from lesionwise.triage.radiomics import features as mirp_features

Cost = Literal["none", "maps", "context", "radiomics", "disagreement", "why"]
"""What measuring takes beyond probability and images: the maps, the network asked again, mirp, or the why table."""


@dataclass(frozen=True)
class Family:
    """A name that features can be asked for by, what they cost, and what they are for given channels."""

    cost: Cost
    features_fn: Callable[[Sequence[str]], Sequence[Feature]]


REGISTRY: Mapping[str, Family] = {
    **{name: Family("none", baselines.features) for name in ("probability", "size", "shape", "place", "surroundings")},
    "image": Family("none", baselines.features),
    "saliency": Family("maps", signed.features),
    "radiomics": Family("radiomics", lambda channels: ()),
    "context": Family("context", context.features),
    "faithfulness": Family("context", context.features),
    "disagreement": Family("disagreement", disagreement.features),
    "structural": Family("disagreement", structural.features),
    "margins": Family("why", margins.features),
}

FAMILIES = tuple(REGISTRY)
"""Where a feature comes from. The first five are what a tool without explanations has: the baselines."""

BASELINES = FAMILIES[:5]

GROUPS: Mapping[str, tuple[str, ...]] = {"reliance": signed.RELIANCE}
"""Parts of a family that can be asked for by a name of their own: "reliance" is what a map says in few numbers."""


def catalogue(channels: Sequence[str], *, radiomics: Iterable[str] = ()) -> dict[str, Feature]:
    """Every feature of a model with these channels, by name; `radiomics` are names of columns that mirp made."""
    modules = (baselines, signed, context, disagreement, structural, margins)
    found = {feature.name: feature for module in modules for feature in module.features(channels)}
    return found | {feature.name: feature for feature in mirp_features(radiomics)}


def costs(families: Iterable[str]) -> set[Cost]:
    """What measuring these families takes."""
    return {REGISTRY[family].cost for family in families if family in REGISTRY}


def of_families(known: Mapping[str, Feature], families: Sequence[str]) -> list[str]:
    """Names of the features of some families or `GROUPS`, in the catalogue's order.

    Raises InputError for an unknown one.
    """
    wrong = [family for family in families if family not in (*FAMILIES, *GROUPS)]
    if wrong:
        raise InputError(
            f"Expected families of features among {', '.join((*FAMILIES, *GROUPS))}, found {', '.join(wrong)}."
        )
    stems = tuple(stem for family in families for stem in GROUPS.get(family, ()))
    return [
        name
        for name, feature in known.items()
        if feature.family in families or (feature.family == "saliency" and stems and _of_stems(name, stems))
    ]


def _of_stems(name: str, stems: tuple[str, ...]) -> bool:
    """Whether a feature of the maps is one of some, whatever its channel."""
    return name in stems or name.startswith(tuple(f"{stem}_" for stem in stems))
