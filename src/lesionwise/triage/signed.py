"""Features of the signed map: strength, sign by distance, where it lies, what it relies on, how stable it is.

The map of a mean over Omega shrinks as 1 / |Omega|: features of strength are taken from |Omega| M, the map of the
summed target, so that they do not say the size once more. Features linear in the map do not depend on the number of
noise samples except through noise; peaks, spreads and shares of |map| do: compare scans explained with one N.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from lesionwise.triage.features import Feature, of_channels
from lesionwise.triage.scan import LesionView

FROM_TABLE = ("peak", "trough")
"""Columns of the lesion table that become features: peaks there are corrected for maximisation."""

_TINY = 1e-12


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

PER_CHANNEL: tuple[Feature, ...] = (
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

CROSS: tuple[Feature, ...] = (
    Feature(
        "channel_agreement", "saliency", "agreement of the channels", "the agreement of the channels' maps (cosine)"
    ),
    Feature(
        "sign_conflict", "saliency", "agreement of the channels", "the share of voxels where the channels' signs differ"
    ),
)
"""Features between the first two channels."""

RELIANCE: tuple[str, ...] = (
    "share",
    "push_in",
    "push_out",
    "inside_share",
    "reach_mm",
    "instability",
    "channel_agreement",
    "sign_conflict",
)
"""What a map says in few numbers."""


def features(channels: Sequence[str]) -> list[Feature]:
    """The features of the family saliency; they need the maps."""
    return [*of_channels((*PER_CHANNEL, *_bins()), channels), *(CROSS if len(channels) > 1 else ())]


def profile_name(a: float, b: float) -> str:
    """Name of one bin of the profile by distance.

    >>> profile_name(-1.5, 0.0)
    'profile_-1.5_0mm'
    """
    return f"profile_{'core' if a < -50 else f'{a:g}'}_{b:g}mm"


def _bins() -> list[Feature]:
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


def saliency_features(view: LesionView, row: Mapping[str, object], *, channels: tuple[str, ...]) -> dict[str, float]:
    """Family saliency of one lesion; `row` is its row of the lesion table. All nan if it was not explained."""
    names = [feature.name for feature in PER_CHANNEL]
    names += [profile_name(a, b) for a, b in PROFILE_MM]
    found = {f"{name}_{channel}": float("nan") for channel in channels for name in names}
    if len(channels) > 1:
        found |= dict.fromkeys((feature.name for feature in CROSS), float("nan"))
    if view.map is None:
        return found
    for number, channel in enumerate(channels):
        image = None if view.image is None else view.image[number]
        whole = view.map[number] * len(view.voxels)
        measured = {**_strength(view, whole), **_profile(view, whole)}
        measured |= _whereabouts(view, view.map[number])
        measured |= _push(view, view.map[number], image)
        measured |= {name: _number(row.get(f"{name}_{channel}")) * len(view.voxels) for name in FROM_TABLE}
        measured["share"] = _number(row.get(f"share_{channel}"))
        measured["instability"] = _instability(row, channel)
        found |= {f"{name}_{channel}": value for name, value in measured.items()}
    if len(channels) > 1:
        found |= _between(view, view.map[0], view.map[1])
    return found


def _strength(view: LesionView, values: Float[np.ndarray, "i j k"]) -> dict[str, float]:
    """First-order statistics in the lesion and 2 mm around it (the published region)."""
    region = values[view.inside | view.shell(0.0, 2.0)]
    inside, near = values[view.inside], values[view.shell(0.0, 3.0)]
    sd = float(region.std())
    centred = (region - region.mean()) / (sd + _TINY)
    p10, p50, p90 = np.percentile(region, [10, 50, 90])
    return {
        "mean_in": float(inside.mean()),
        "map_sd": sd,
        "map_skewness": float((centred**3).mean()),
        "map_kurtosis": float((centred**4).mean()),
        "map_p10": float(p10),
        "map_p50": float(p50),
        "map_p90": float(p90),
        "positive_in": float((inside > 0).mean()),
        "shell_contrast": float(inside.mean() - near.mean()) if near.size else float("nan"),
    }


def _profile(view: LesionView, values: Float[np.ndarray, "i j k"]) -> dict[str, float]:
    """Mean of the map by signed distance to the border."""
    found = {}
    for a, b in PROFILE_MM:
        where = view.inside & (view.distance_mm > a) & (view.distance_mm <= b) if b <= 0 else view.shell(a, b)
        found[profile_name(a, b)] = float(values[where].mean()) if where.any() else float("nan")
    return found


def _whereabouts(view: LesionView, values: Float[np.ndarray, "i j k"]) -> dict[str, float]:
    """How the map's |values| are spread around the lesion, within 10 mm."""
    mass = np.abs(values)
    total = float(mass.sum())
    if total == 0:
        nan = float("nan")
        return {"inside_share": nan, "far_share": nan, "reach_mm": nan, "mass_log": nan}
    outside = np.maximum(view.distance_mm, 0.0)
    return {
        "inside_share": float(mass[view.inside].sum() / total),
        "far_share": float(mass[outside > 7.0].sum() / total),
        "reach_mm": float((mass * outside).sum() / total),
        "mass_log": float(np.log(total)),
    }


def _push(
    view: LesionView, values: Float[np.ndarray, "i j k"], image: Float[np.ndarray, "i j k"] | None
) -> dict[str, float]:
    """First-order effect on the target of what stands out from the tissue around: sum of M (x - surroundings).

    The surroundings' value is the median of the image at 3 to 7 mm. M is the derivative of the lesion's mean target
    per SD of the channel, x is in SD: the sum is in target units.
    """
    around = view.shell(3.0, 7.0)
    if image is None or not around.any():
        return {"push_in": float("nan"), "push_out": float("nan")}
    effect = values * (image - np.median(image[around]))
    if view.head is not None:
        effect = np.where(view.head, effect, 0.0)
    return {"push_in": float(effect[view.inside].sum()), "push_out": float(effect[~view.inside].sum())}


def _instability(row: Mapping[str, object], channel: str) -> float:
    """Spread of the peak between single noise draws over the peak: SE sqrt(N) / |peak|, free of N."""
    peak, se, n = (_number(row.get(name)) for name in (f"peak_{channel}", f"peak_se_{channel}", "n_samples"))
    if not np.isfinite(peak + se + n) or peak == 0:
        return float("nan")
    return float(min(se * np.sqrt(n) / abs(peak), 10.0))


def _between(
    view: LesionView, first: Float[np.ndarray, "i j k"], second: Float[np.ndarray, "i j k"]
) -> dict[str, float]:
    """Agreement of two channels' maps in the lesion and 3 mm around it."""
    region = view.inside | view.shell(0.0, 3.0)
    a, b = first[region], second[region]
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    nan = float("nan")
    inside = (first * second)[view.inside]
    return {
        "channel_agreement": float(a @ b) / norm if norm > 0 else nan,
        "sign_conflict": float((inside < 0).mean()),
    }


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")
