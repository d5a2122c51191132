"""Features that need no explanation of the network: probability, size, shape, place, and the images themselves.

Whatever saliency is worth must show beside these (METHOD 5.7).
"""

from collections.abc import Sequence

import numpy as np

from lesionwise.geometry.affine import to_mm
from lesionwise.triage.features import Feature, Told, of_channels
from lesionwise.triage.scan import LesionView, TriageScan

RIM_MM = 2.0
_TINY = 1e-6


COMMON: tuple[Feature, ...] = (
    Feature(
        "probability_mean",
        "probability",
        "probability",
        "the mean probability",
        told=Told("its probability is higher", "its probability is lower", "mean {value}"),
    ),
    Feature(
        "probability_max",
        "probability",
        "probability",
        "the highest probability",
        told=Told("its highest probability is higher", "its highest probability is lower", "{value}"),
    ),
    Feature("probability_p10", "probability", "probability", "the 10th percentile of the probability"),
    Feature("probability_p50", "probability", "probability", "the median probability"),
    Feature("probability_p90", "probability", "probability", "the 90th percentile of the probability"),
    Feature("probability_sd", "probability", "probability", "the spread of the probability"),
    Feature(
        "log_odds_max",
        "probability",
        "probability",
        "the highest log-odds",
        "log-odds",
        told=Told("its highest probability is higher", "its highest probability is lower", "odds"),
    ),
    Feature(
        "entropy_mean",
        "probability",
        "doubt",
        "the network's doubt (mean entropy)",
        "bit",
        told=Told("the network is less sure of it", "the network is surer of it", "doubt {value} of at most 1"),
    ),
    Feature(
        "entropy_rim",
        "probability",
        "doubt",
        "the network's doubt around it",
        "bit",
        told=Told("the network is less sure around it", "the network is surer around it", "doubt {value} of at most 1"),
    ),
    Feature(
        "probability_rim",
        "probability",
        "doubt",
        "the probability 2 mm around it",
        told=Told("the probability around it is higher", "the probability around it is lower", "{value}"),
    ),
    Feature(
        "volume_log",
        "size",
        "size",
        "the volume (ln mm3)",
        "ln mm3",
        told=Told("it is larger", "it is smaller", "volume"),
    ),
    Feature(
        "depth_max_mm",
        "size",
        "size",
        "the distance from its border to its core",
        "mm",
        told=Told("it is thicker", "it is thinner", "{value} mm from border to core"),
    ),
    Feature(
        "extent",
        "shape",
        "shape",
        "the filling of its bounding box",
        told=Told("it fills more of its box", "it fills less of its box", "{value}"),
    ),
    Feature(
        "elongation",
        "shape",
        "shape",
        "the ratio of its second to its longest axis",
        told=Told("it is rounder", "it is longer", "second to longest axis {value}"),
    ),
    Feature(
        "flatness",
        "shape",
        "shape",
        "the ratio of its shortest to its longest axis",
        told=Told("it is less flat", "it is flatter", "shortest to longest axis {value}"),
    ),
    Feature(
        "compactness",
        "shape",
        "shape",
        "the compactness (core depth against a ball)",
        told=Told("it is more compact", "it is less compact", "{value}, a ball has 1"),
    ),
    Feature(
        "left_right",
        "place",
        "place",
        "the distance from the midline (head widths)",
        told=Told("it is farther from the midline", "it is nearer to the midline", ""),
    ),
    Feature(
        "back_front",
        "place",
        "place",
        "the position from back to front (head lengths)",
        told=Told("it lies farther forward", "it lies farther back", ""),
    ),
    Feature(
        "low_high",
        "place",
        "place",
        "the position from low to high (head heights)",
        told=Told("it lies higher up in the head", "it lies lower in the head", ""),
    ),
    Feature(
        "head_depth_mm",
        "place",
        "place",
        "the depth below the brain's surface",
        "mm",
        told=Told("it lies deeper", "it lies nearer to the brain's surface", "{value} mm"),
    ),
    Feature(
        "fluid_mm",
        "surroundings",
        "surroundings",
        "the distance to fluid",
        "mm",
        told=Told("it is farther from fluid", "it is nearer to fluid", "{value} mm"),
    ),
    Feature(
        "fluid_share",
        "surroundings",
        "surroundings",
        "the share of fluid around it",
        told=Told("there is more fluid around it", "there is less fluid around it", "share"),
    ),
    Feature(
        "neighbour_mm",
        "surroundings",
        "surroundings",
        "the distance to the next lesion",
        "mm",
        told=Told("it is farther from the next lesion", "it is nearer to the next lesion", "{value} mm"),
    ),
)

PER_CHANNEL: tuple[Feature, ...] = (
    Feature("image_mean", "image", "contrast on {c}", "the {c} intensity", "SD"),
    Feature("image_contrast", "image", "contrast on {c}", "the {c} contrast to its surroundings", "SD"),
    Feature("image_sd", "image", "contrast on {c}", "the {c} variation inside", "SD"),
    Feature("image_edge", "image", "contrast on {c}", "the sharpness of its border on {c}", "SD/mm"),
    Feature("image_rim_sd", "image", "contrast on {c}", "the {c} variation around it", "SD"),
)


def features(channels: Sequence[str]) -> list[Feature]:
    """The features of the families probability, size, shape, place, surroundings and image; they cost nothing extra."""
    return [*COMMON, *of_channels(PER_CHANNEL, channels)]


def baseline_features(scan: TriageScan, view: LesionView) -> dict[str, float]:
    """Families probability, size, shape, place and image of one lesion; nan where something is not known."""
    found = {**_probability(view), **_shape(view), **_place(scan, view)}
    for number, channel in enumerate(scan.channels):
        found |= {f"{name}_{channel}": value for name, value in _image(view, number).items()}
    return found


def entropy_bit(p: np.ndarray) -> np.ndarray:
    """Binary entropy of a probability, 0 to 1 bit; higher is more doubt.

    >>> float(entropy_bit(np.array([0.5]))[0])
    1.0
    """
    q = np.clip(p, _TINY, 1 - _TINY)
    return -(q * np.log2(q) + (1 - q) * np.log2(1 - q))


def _probability(view: LesionView) -> dict[str, float]:
    inside = view.probability[view.inside]
    rim = view.probability[view.shell(0.0, RIM_MM)]
    top = float(np.clip(inside.max(), _TINY, 1 - _TINY))
    p10, p50, p90 = np.percentile(inside, [10, 50, 90])
    return {
        "probability_mean": float(inside.mean()),
        "probability_max": float(inside.max()),
        "probability_p10": float(p10),
        "probability_p50": float(p50),
        "probability_p90": float(p90),
        "probability_sd": float(inside.std()),
        "log_odds_max": float(np.log(top / (1 - top))),
        "entropy_mean": float(entropy_bit(inside).mean()),
        "entropy_rim": _mean(entropy_bit(rim)),
        "probability_rim": _mean(rim),
    }


def _shape(view: LesionView) -> dict[str, float]:
    voxel_mm3 = float(np.prod(view.sizes_mm))
    volume = len(view.voxels) * voxel_mm3
    span = view.voxels.max(axis=0) - view.voxels.min(axis=0) + 1
    points = view.voxels * np.asarray(view.sizes_mm)
    # A voxel is a block, not a point: its own variance keeps one-voxel-thin shapes from having axes of length 0.
    spread = np.cov(points.T, bias=True) if len(points) > 1 else np.zeros((3, 3))
    axes = np.sqrt(np.sort(np.linalg.eigvalsh(spread + np.diag(np.square(view.sizes_mm) / 12.0)))[::-1])
    core = float(-view.distance_mm[view.inside].min())
    ball = (3.0 * volume / (4.0 * np.pi)) ** (1 / 3)
    return {
        "volume_log": float(np.log(volume)),
        "depth_max_mm": core,
        "extent": float(len(view.voxels) / np.prod(span)),
        "elongation": float(axes[1] / axes[0]),
        "flatness": float(axes[2] / axes[0]),
        "compactness": float(core / ball),
    }


def _place(scan: TriageScan, view: LesionView) -> dict[str, float]:
    nan = float("nan")
    found = dict.fromkeys(("left_right", "back_front", "low_high", "head_depth_mm", "fluid_mm", "fluid_share"), nan)
    other = scan.lesions[scan.lesions["lesion"] != view.label]
    centre = to_mm(view.voxels.mean(axis=0, keepdims=True), scan.affine)[0]
    predicted = other[other["outcome"].isna() | other["outcome"].isin(("TP", "FP", "US"))]
    gaps = np.linalg.norm(predicted[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float) - centre, axis=1)
    # Beyond 60 mm it makes no difference how far the next lesion is, or whether there is one.
    found["neighbour_mm"] = float(min(gaps.min(), 60.0)) if len(gaps) else 60.0
    if scan.head_span_mm is None:
        return found
    low, high = scan.head_span_mm
    relative = (centre - (low + high) / 2) / np.maximum(high - low, 1.0)
    found |= {"left_right": float(abs(relative[0])), "back_front": float(relative[1]), "low_high": float(relative[2])}
    index = tuple(view.voxels.T)
    for name, distance in (("head_depth_mm", scan.head_depth_mm), ("fluid_mm", scan.fluid_mm)):
        if distance is not None:
            found[name] = float(distance[index].min())
    rim = view.shell(0.0, RIM_MM)
    if view.image is not None and rim.any():
        found["fluid_share"] = float(np.all(view.image < -1.0, axis=0)[rim].mean())
    return found


def _image(view: LesionView, number: int) -> dict[str, float]:
    if view.image is None:
        return dict.fromkeys(("image_mean", "image_contrast", "image_sd", "image_edge", "image_rim_sd"), float("nan"))
    values = view.image[number]
    inside = values[view.inside]
    around = values[view.shell(1.0, 4.0)]
    slope = np.sqrt(sum(np.square(np.gradient(values, size, axis=a)) for a, size in enumerate(view.sizes_mm)))
    border = view.inside & (view.distance_mm > -1.5 * max(view.sizes_mm))
    return {
        "image_mean": float(inside.mean()),
        "image_contrast": float(inside.mean() - _median(around)),
        "image_sd": float(inside.std()),
        "image_edge": _mean(slope[border]),
        "image_rim_sd": float(around.std()) if around.size else float("nan"),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else float("nan")
