"""The features of triage: what each number is, in which family and concept it counts, and how it is said in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lesionwise.errors import InputError

FAMILIES = (
    "probability",
    "size",
    "shape",
    "place",
    "surroundings",
    "image",
    "saliency",
    "radiomics",
    "context",
    "faithfulness",
    "disagreement",
    "structural",
)
"""Where a feature comes from. The first five are what a tool without explanations has: the baselines."""

BASELINES = ("probability", "size", "shape", "place", "surroundings")

GROUPS: Mapping[str, tuple[str, ...]] = {
    "reliance": (
        "share",
        "push_in",
        "push_out",
        "inside_share",
        "reach_mm",
        "instability",
        "channel_agreement",
        "sign_conflict",
    )
}
"""Parts of a family that can be asked for by a name of their own: "reliance" is what a map says in few numbers."""


@dataclass(frozen=True)
class Feature:
    """One number per lesion.

    `concept` groups features that say the same thing, so that three reasons are three different ones. `words` complete
    the sentence "<words> is high (or low)".
    """

    name: str
    family: str
    concept: str
    words: str
    units: str = "1"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(
                f"Expected the family of {self.name} to be one of {', '.join(FAMILIES)}, found {self.family}."
            )


PROFILE_MM: tuple[tuple[float, float], ...] = (
    (-99.0, -1.5),
    (-1.5, 0.0),
    (0.0, 1.0),
    (1.0, 2.0),
    (2.0, 3.0),
    (3.0, 5.0),
    (5.0, 7.0),
    (7.0, 10.0),
)
"""Signed distances (a, b] to the border, in mm, over which the map is averaged; negative is inside."""

COMMON: tuple[Feature, ...] = (
    Feature("probability_mean", "probability", "probability", "the mean probability"),
    Feature("probability_max", "probability", "probability", "the highest probability"),
    Feature("probability_p10", "probability", "probability", "the 10th percentile of the probability"),
    Feature("probability_p50", "probability", "probability", "the median probability"),
    Feature("probability_p90", "probability", "probability", "the 90th percentile of the probability"),
    Feature("probability_sd", "probability", "probability", "the spread of the probability"),
    Feature("log_odds_max", "probability", "probability", "the highest log-odds", "log-odds"),
    Feature("entropy_mean", "probability", "doubt", "the network's doubt (mean entropy)", "bit"),
    Feature("entropy_rim", "probability", "doubt", "the network's doubt around it", "bit"),
    Feature("probability_rim", "probability", "doubt", "the probability 2 mm around it"),
    Feature("volume_log", "size", "size", "the volume (ln mm3)", "ln mm3"),
    Feature("depth_max_mm", "size", "size", "the distance from its border to its core", "mm"),
    Feature("extent", "shape", "shape", "the filling of its bounding box"),
    Feature("elongation", "shape", "shape", "the ratio of its second to its longest axis"),
    Feature("flatness", "shape", "shape", "the ratio of its shortest to its longest axis"),
    Feature("compactness", "shape", "shape", "the compactness (core depth against a ball)"),
    Feature("left_right", "place", "place", "the distance from the midline (head widths)"),
    Feature("back_front", "place", "place", "the position from back to front (head lengths)"),
    Feature("low_high", "place", "place", "the position from low to high (head heights)"),
    Feature("head_depth_mm", "place", "place", "the depth below the brain's surface", "mm"),
    Feature("fluid_mm", "surroundings", "surroundings", "the distance to fluid", "mm"),
    Feature("fluid_share", "surroundings", "surroundings", "the share of fluid around it"),
    Feature("neighbour_mm", "surroundings", "surroundings", "the distance to the next lesion", "mm"),
)
"""Features that do not depend on the channels."""

PER_CHANNEL: tuple[Feature, ...] = (
    Feature("image_mean", "image", "contrast on {c}", "the {c} intensity", "SD"),
    Feature("image_contrast", "image", "contrast on {c}", "the {c} contrast to its surroundings", "SD"),
    Feature("image_sd", "image", "contrast on {c}", "the {c} variation inside", "SD"),
    Feature("image_edge", "image", "contrast on {c}", "the sharpness of its border on {c}", "SD/mm"),
    Feature("image_rim_sd", "image", "contrast on {c}", "the {c} variation around it", "SD"),
    Feature("peak", "saliency", "sensitivity to {c} inside", "the peak of the {c} map", "map"),
    Feature("trough", "saliency", "sensitivity to {c} inside", "the trough of the {c} map", "map"),
    Feature("mean_in", "saliency", "sensitivity to {c} inside", "the mean {c} map inside", "map"),
    Feature("map_sd", "saliency", "sensitivity to {c} inside", "the spread of the {c} map", "map"),
    Feature("map_skewness", "saliency", "sensitivity to {c} inside", "the skewness of the {c} map"),
    Feature("map_kurtosis", "saliency", "sensitivity to {c} inside", "the kurtosis of the {c} map"),
    Feature("map_p10", "saliency", "sensitivity to {c} inside", "the 10th percentile of the {c} map", "map"),
    Feature("map_p50", "saliency", "sensitivity to {c} inside", "the median of the {c} map", "map"),
    Feature("map_p90", "saliency", "sensitivity to {c} inside", "the 90th percentile of the {c} map", "map"),
    Feature("positive_in", "saliency", "sensitivity to {c} inside", "the positive share of the {c} map inside"),
    Feature("shell_contrast", "saliency", "sensitivity to {c} around", "the step of the {c} map at the border", "map"),
    Feature("inside_share", "saliency", "where the {c} map lies", "the share of the {c} map inside the lesion"),
    Feature("far_share", "saliency", "where the {c} map lies", "the share of the {c} map beyond 7 mm"),
    Feature("reach_mm", "saliency", "where the {c} map lies", "the mean reach of the {c} map", "mm"),
    Feature("mass_log", "saliency", "sensitivity to {c} around", "the total of the {c} map", "ln"),
    Feature("share", "saliency", "reliance on {c}", "the share of {c} in the map"),
    Feature(
        "push_in", "saliency", "push of {c} inside", "what the lesion's own {c} signal adds (to first order)", "target"
    ),
    Feature(
        "push_out", "saliency", "push of {c} around", "what the surrounding {c} signal adds (to first order)", "target"
    ),
    Feature("instability", "saliency", "stability of the {c} map", "the spread of the {c} peak between noise draws"),
)
"""Features per channel; `{c}` is the channel's name."""

CROSS: tuple[Feature, ...] = (
    Feature(
        "channel_agreement", "saliency", "agreement of the channels", "the agreement of the channels' maps (cosine)"
    ),
    Feature(
        "sign_conflict", "saliency", "agreement of the channels", "the share of voxels where the channels' signs differ"
    ),
)
"""Features between the first two channels."""

CONTEXT: tuple[Feature, ...] = (
    Feature(
        "drop_removed",
        "context",
        "what holds it up",
        "the loss of log-odds when healthy tissue replaces it",
        "log-odds",
    ),
    Feature(
        "drop_isolated", "context", "dependence on context", "the loss of log-odds without its surroundings", "log-odds"
    ),
)
"""Features that need the network: how the target answers to changed inputs."""

CONTEXT_PER_CHANNEL: tuple[Feature, ...] = (
    Feature(
        "drop_channel", "context", "what {c} holds up", "the loss of log-odds when only {c} is healthy", "log-odds"
    ),
)

FAITHFULNESS: tuple[Feature, ...] = (
    Feature(
        "drop_salient",
        "faithfulness",
        "faithfulness of the map",
        "the loss of log-odds without the map's strongest voxels",
        "log-odds",
    ),
    Feature(
        "beyond_first_order",
        "faithfulness",
        "faithfulness of the map",
        "what its removal does that the map does not foresee",
        "log-odds",
    ),
)
"""Features that need the network and the map: whether one answers as the other says."""

DISAGREEMENT: tuple[Feature, ...] = (
    Feature("mirrored_drop", "disagreement", "mirroring", "the loss of log-odds when mirrored", "log-odds"),
    Feature("mirrored_spread", "disagreement", "mirroring", "the spread of log-odds over mirrorings", "log-odds"),
    Feature("noise_drop", "disagreement", "noise", "the loss of log-odds under noise", "log-odds"),
    Feature("noise_spread", "disagreement", "noise", "the spread of log-odds under noise", "log-odds"),
    Feature("kept_share", "disagreement", "steadiness", "the share of it kept when mirrored or under noise"),
    Feature("detected_share", "disagreement", "steadiness", "how often it is found when mirrored or under noise"),
    Feature("mutual_information", "disagreement", "steadiness", "the disagreement when mirrored or under noise", "bit"),
    Feature("dropout_drop", "disagreement", "dropout", "the loss of log-odds under dropout", "log-odds"),
    Feature("dropout_spread", "disagreement", "dropout", "the spread of log-odds under dropout", "log-odds"),
    Feature("member_spread", "disagreement", "the ensemble", "the spread of log-odds over the ensemble", "log-odds"),
)
"""Features that ask the network again in other ways; dropout and ensemble are nan where the network has none."""


STRUCTURAL = (
    Feature("structural_uncertainty", "structural", "the ensemble", "how differently the ensemble's members draw it"),
)
"""1 - mean IoU over the members of an ensemble or the folds of a model; nan for a single network."""


def catalogue(channels: Sequence[str], *, radiomics: Iterable[str] = ()) -> dict[str, Feature]:
    """Every feature of a model with these channels, by name; `radiomics` are names of columns that mirp made."""
    found = {feature.name: feature for feature in COMMON}
    found |= _of_channels((*PER_CHANNEL, *_profile()), channels)
    if len(channels) > 1:
        found |= {feature.name: feature for feature in CROSS}
    found |= {feature.name: feature for feature in CONTEXT}
    found |= _of_channels(CONTEXT_PER_CHANNEL, channels)
    found |= {feature.name: feature for feature in (*FAITHFULNESS, *DISAGREEMENT, *STRUCTURAL)}
    for name in radiomics:
        found[name] = Feature(name, "radiomics", "texture of the map", f"the radiomic feature {name}")
    return found


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


def profile_name(a: float, b: float) -> str:
    """Name of one bin of the profile by distance.

    >>> profile_name(-1.5, 0.0)
    'profile_-1.5_0mm'
    """
    return f"profile_{'core' if a < -50 else f'{a:g}'}_{b:g}mm"


def _of_stems(name: str, stems: tuple[str, ...]) -> bool:
    """Whether a feature of the maps is one of some, whatever its channel."""
    return name in stems or name.startswith(tuple(f"{stem}_" for stem in stems))


def _profile() -> list[Feature]:
    found = []
    for a, b in PROFILE_MM:
        where = "inside" if b <= 0 else "around"
        text = "deeper than 1.5 mm" if a < -50 else ("along the border inside" if b <= 0 else f"{a:g}-{b:g} mm outside")
        found.append(
            Feature(
                profile_name(a, b), "saliency", f"sensitivity to {{c}} {where}", f"the mean {{c}} map {text}", "map"
            )
        )
    return found


def _of_channels(features: Iterable[Feature], channels: Sequence[str]) -> dict[str, Feature]:
    """The features of every channel, by name."""
    every = [_of_channel(feature, channel) for channel in channels for feature in features]
    return {feature.name: feature for feature in every}


def _of_channel(feature: Feature, channel: str) -> Feature:
    return Feature(
        f"{feature.name}_{channel}",
        feature.family,
        feature.concept.format(c=channel),
        feature.words.format(c=channel),
        feature.units,
    )
