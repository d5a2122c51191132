"""Features that need no explanation of the network: probability, size, shape, place, and the images themselves.

Whatever saliency is worth must show beside these (METHOD 5.7).
"""

import numpy as np

from lesionwise.geometry.affine import to_mm
from lesionwise.triage.scan import LesionView, TriageScan

RIM_MM = 2.0
_TINY = 1e-6


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
