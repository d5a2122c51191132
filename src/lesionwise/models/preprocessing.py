"""Preprocessing as other software describes it: where voxels go (linear maps) and what becomes of intensities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from lesionwise.errors import ModelFileError
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.grids import reorientation
from lesionwise.geometry.volume import Case
from lesionwise.models.resampling import axis_map, linear_at, placed_back
from lesionwise.segmenter import Placement, select_channels

Image = Float[np.ndarray, "channels i j k"]

_GEOMETRY_FREE = (
    "LoadImage", "EnsureChannelFirst", "EnsureType", "ToTensor", "AddChannel", "AsChannelFirst", "CastToType", "ConcatItems",
    "ToDevice", "SelectItems", "DeleteItems", "EnsureTyped",
)  # fmt: skip


@dataclass(frozen=True)
class Intensity:
    """One intensity step. `kind` and its numbers; constants are taken from the image it is fitted to.

    "zscore": (x - mean) / SD per channel, over non-zero voxels with `nonzero`. "range": a linear map of [low, high] to
    [to_low, to_high], `clip`ped. "percentiles": the same between two percentiles. "minmax": between the extremes.
    """

    kind: Literal["zscore", "range", "percentiles", "minmax"]
    nonzero: bool = False
    low: float = 0.0
    high: float = 1.0
    to_low: float = 0.0
    to_high: float = 1.0
    clip: bool = False
    channel_wise: bool = True

    def fit(self, image: Image) -> Callable[[Image], tuple[Image, np.ndarray]]:
        """The step with its constants taken from an image: gives the new image, and where it still follows the old."""
        parts = (
            [self._fit_one(channel) for channel in image] if self.channel_wise else [self._fit_one(image)] * len(image)
        )

        def apply(x: Image) -> tuple[Image, np.ndarray]:
            values, follows = zip(*(part(channel) for part, channel in zip(parts, x, strict=True)), strict=True)
            return np.stack(values), np.stack(follows)

        return apply

    def _fit_one(self, channel: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        if self.kind == "zscore":
            inside = channel[channel != 0] if self.nonzero else channel
            mean, spread = (float(inside.mean()), float(inside.std())) if inside.size else (0.0, 1.0)
            spread = spread or 1.0

            def score(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                mask = (x != 0) if self.nonzero else np.ones(x.shape, dtype=bool)
                return np.where(mask, (x - mean) / spread, x).astype(np.float32), mask

            return score
        low, high = self.low, self.high
        if self.kind == "minmax":
            low, high = float(channel.min()), float(channel.max())
        elif self.kind == "percentiles":
            low, high = (float(v) for v in np.percentile(channel, [self.low, self.high]))
        gain = (self.to_high - self.to_low) / ((high - low) or 1.0)

        def stretch(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            y = (x - low) * gain + self.to_low
            follows = np.ones(x.shape, dtype=bool)
            if self.clip:
                follows = (y >= self.to_low) & (y <= self.to_high)
                y = np.clip(y, self.to_low, self.to_high)
            return y.astype(np.float32), follows

        return stretch

    def sentence(self) -> str:
        """The step in words."""
        where = " over non-zero voxels" if self.nonzero else ""
        if self.kind == "zscore":
            return f"z-scored{where}"
        source = {"minmax": "its range", "percentiles": f"percentiles {self.low:g} to {self.high:g}"}
        return (
            f"{source.get(self.kind, f'{self.low:g} to {self.high:g}')} scaled to {self.to_low:g} to {self.to_high:g}"
            f"{', clipped' if self.clip else ''}"
        )


@dataclass(frozen=True)
class Steps:
    """Preprocessing of a MONAI model: orientation, voxel size, intensity steps before and after resampling."""

    orientation: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    before: tuple[Intensity, ...] = ()
    after: tuple[Intensity, ...] = ()

    def sentences(self) -> tuple[str, ...]:
        """The steps in words."""
        lines = [step.sentence() for step in self.before]
        if self.orientation:
            lines.append(f"turned to {self.orientation}")
        if self.spacing_mm:
            lines.append(f"resampled to {' x '.join(f'{v:g}' for v in self.spacing_mm)} mm (linear)")
        return (*lines, *(step.sentence() for step in self.after))

    def place(self, case: Case, channels: tuple[str, ...]) -> Placement:
        """Lays a case on the network's grid. Equal to MONAI's Orientationd and Spacingd (bilinear)."""
        raw = select_channels(case, channels).astype(np.float32)
        on_scan, follows = raw, np.ones(raw.shape, dtype=bool)
        for step in self.before:
            on_scan, kept = step.fit(on_scan)(on_scan)
            follows &= kept
        turned = reorientation(case.image.affine, case.image.shape, axes=self.orientation)
        sizes = [voxel_sizes_mm(case.image.affine)[axis] for axis in turned.permutation]
        there, back = [], []
        for axis, n in enumerate(turned.target_shape):
            if self.spacing_mm is None:
                there.append(np.eye(n))
                back.append(np.eye(n))
                continue
            # MONAI aligns the centres of the first voxels, not the outer edges
            step_vox = self.spacing_mm[axis] / sizes[axis]
            m = int(np.round((n - 1) / step_vox + 1))
            there.append(linear_at(n, np.arange(m) * step_vox))
            back.append(linear_at(m, np.arange(n) / step_vox))
        flips = turned.matrices
        to_network = axis_map([r @ f for r, f in zip(there, flips, strict=True)], turned.permutation)
        to_scan = placed_back([f.T @ r for r, f in zip(back, flips, strict=True)], turned.permutation)
        image = to_network.forward(torch.from_numpy(on_scan).double()).float().numpy()
        passes = np.ones(image.shape, dtype=bool)
        for step in self.after:
            fitted = step.fit(image)
            (image, kept), (on_scan, _) = fitted(image), fitted(on_scan)
            passes &= kept
        return Placement(
            torch.from_numpy(np.ascontiguousarray(image))[None],
            to_network.forward(torch.from_numpy(case.head.astype(np.float32))) > 0.5,
            torch.from_numpy(np.array([channel[case.head].astype(np.float64).std() for channel in on_scan])).float(),
            to_network,
            to_scan,
            scan=torch.from_numpy(np.ascontiguousarray(on_scan, dtype=np.float32)),
            scan_head=torch.from_numpy(case.head),
            sizes_mm=self.spacing_mm or (sizes[0], sizes[1], sizes[2]),
            scan_sizes_mm=voxel_sizes_mm(case.image.affine),
            passes=None if passes.all() else torch.from_numpy(passes),
            scan_passes=None if follows.all() else torch.from_numpy(follows),
        )


def monai_steps(description: Any, *, where: str) -> Steps:
    """Steps of a bundle's `preprocessing`: a Compose, or a list of dictionary transforms.

    Raises ModelFileError that names a transform or a value which is not known.
    """
    transforms = description.get("transforms", []) if isinstance(description, Mapping) else description or []
    orientation: str | None = None
    spacing: tuple[float, float, float] | None = None
    before: list[Intensity] = []
    after: list[Intensity] = []
    for item in transforms:
        if not isinstance(item, Mapping):
            raise ModelFileError(f"Expected transforms with a _target_ in the preprocessing of {where}, found {item}.")
        if item.get("_disabled_") is True:
            continue
        name = str(item.get("_target_", "")).rpartition(".")[2].rstrip("dD")
        if name in _GEOMETRY_FREE or name == "EnsureType":
            continue
        if name == "Orientation":
            orientation = str(item.get("axcodes", "RAS"))
        elif name == "Spacing":
            spacing = _spacing(item, where)
        elif name in ("CropForeground", "ForegroundMask", "SpatialPad", "DivisiblePad"):
            raise ModelFileError(f"The preprocessing of {where} uses {name}, which is not supported.")
        else:
            (after if spacing is not None else before).append(_intensity(name, item, where))
    return Steps(orientation, spacing, tuple(before), tuple(after))


def _intensity(name: str, item: Mapping[str, Any], where: str) -> Intensity:
    def number(key: str, default: float) -> float:
        value = item.get(key, default)
        if value is None:
            return default
        if not isinstance(value, int | float):
            raise ModelFileError(f"Expected a number for {key} of {name} in {where}, found {value}.")
        return float(value)

    channel_wise = bool(item.get("channel_wise", False))
    if name == "NormalizeIntensity" and item.get("subtrahend") is None and item.get("divisor") is None:
        return Intensity("zscore", nonzero=bool(item.get("nonzero", False)), channel_wise=channel_wise)
    if name == "ScaleIntensity" and item.get("factor") is None:
        low, high = number("minv", 0.0), number("maxv", 1.0)
        return Intensity("minmax", to_low=low, to_high=high, channel_wise=channel_wise)
    if name in ("ScaleIntensityRange", "ScaleIntensityRangePercentiles"):
        percentiles = name.endswith("Percentiles")
        low_key, high_key = ("lower", "upper") if percentiles else ("a_min", "a_max")
        return Intensity(
            "percentiles" if percentiles else "range",
            low=number(low_key, 0.0),
            high=number(high_key, 1.0),
            to_low=number("b_min", 0.0),
            to_high=number("b_max", 1.0),
            clip=bool(item.get("clip", False)),
            channel_wise=channel_wise or not percentiles,
        )
    raise ModelFileError(f"The preprocessing of {where} uses {item.get('_target_')}, which is not supported.")


def _spacing(item: Mapping[str, Any], where: str) -> tuple[float, float, float]:
    value = item.get("pixdim")
    values = [value] * 3 if isinstance(value, int | float) else value
    if not (
        isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) and v > 0 for v in values)
    ):
        raise ModelFileError(f"Expected three voxel sizes in Spacingd of {where}, found {value}.")
    return float(values[0]), float(values[1]), float(values[2])
