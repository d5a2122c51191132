"""Preprocessing as other software describes it: where voxels go (linear maps) and what becomes of intensities."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box, triple
from lesionwise.geometry.grids import AxisOperator, reorientation
from lesionwise.geometry.volume import Case
from lesionwise.models.resampling import axis_map, cropping, linear_at, placed_back
from lesionwise.segmenter import Placement, select_channels

Image = Float[np.ndarray, "channels i j k"]

_GEOMETRY_FREE = (
    "LoadImage", "EnsureChannelFirst", "EnsureType", "ToTensor", "AddChannel", "AsChannelFirst", "CastToType", "ConcatItems",
    "ToDevice", "SelectItems", "DeleteItems",
)  # fmt: skip
_DICTIONARY = re.compile("(Dict|D|d)$")
"""What MONAI adds to the name of a transform that acts on dictionaries."""


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
class Crop:
    """A cut to the box around all voxels above 0 of any channel, grown by `margin` voxels; beyond the image there are zeros
    unless `allow_smaller`. What lies outside is not looked at.
    """

    margin: int = 0
    allow_smaller: bool = True

    def box(self, image: Image) -> Box:
        """The box in voxels of the image. Raises InputError if nothing is above 0."""
        voxels = np.argwhere((image > 0).any(axis=0))
        if not len(voxels):
            raise InputError("Expected a scan with intensities above 0 to crop to, found none.")
        grown = [n + 2 * self.margin for n in image.shape[1:]]
        box = Box.around(voxels + self.margin, margin=self.margin, shape=(grown[0], grown[1], grown[2]))
        box = box.shifted((-self.margin, -self.margin, -self.margin))
        a, b, c = image.shape[1:]
        return box.intersection(Box.whole((a, b, c))) if self.allow_smaller else box

    def sentence(self) -> str:
        """The step in words."""
        return "cropped to voxels above 0" + (f" and {self.margin} around them" if self.margin else "")


@dataclass(frozen=True)
class Steps:
    """Preprocessing of a MONAI model: orientation, voxel size, and what is done before and after resampling, in order."""

    orientation: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    before: tuple[Intensity | Crop, ...] = ()
    after: tuple[Intensity | Crop, ...] = ()

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
        turned = reorientation(case.image.affine, case.image.shape, axes=self.orientation)
        kept_box, on_scan, follows = _prepared(raw, self.before)
        sizes = [voxel_sizes_mm(case.image.affine)[axis] for axis in turned.permutation]
        there, back = [], []
        for axis, flip in enumerate(turned.matrices):
            source = turned.permutation[axis]
            start, stop = kept_box.start[source], kept_box.stop[source]
            n = len(flip)
            if flip[0, 0] != 1 and n > 1:  # the axis is turned round: so is the cut
                start, stop = n - stop, n - start
            cut = _cut(n, start, stop) @ flip
            if self.spacing_mm is None:
                there.append(cut)
                back.append(cut.T)
                continue
            # MONAI aligns the centres of the first voxels, not the outer edges
            n, step_vox = stop - start, self.spacing_mm[axis] / sizes[axis]
            m = int(np.round((n - 1) / step_vox + 1))
            there.append(linear_at(n, np.arange(m) * step_vox) @ cut)
            back.append(cut.T @ linear_at(m, np.arange(n) / step_vox))
        image = axis_map(there, turned.permutation).forward(torch.from_numpy(on_scan).double()).float().numpy()
        box, whole_scan = Box.whole(triple(image.shape[-3:])), on_scan
        passes = np.ones(image.shape, dtype=bool)
        for step in self.after:
            view = image[(slice(None), *box.slices)]
            if isinstance(step, Crop):
                image, passes = image[(slice(None), *box.slices)], passes[(slice(None), *box.slices)]
                box = step.box(view)
                cuts = cropping(triple(view.shape[-3:]), box.start, box.stop)
                there = [c @ r for c, r in zip(cuts, there, strict=True)]
                back = [r @ c.T for c, r in zip(cuts, back, strict=True)]
                padded = axis_map(cuts)
                image = padded.forward(torch.from_numpy(np.ascontiguousarray(image))).numpy()
                passes = padded.forward(torch.from_numpy(passes.astype(np.float32))).numpy() > 0.5
                box = Box.whole(triple(image.shape[-3:]))
                continue
            fitted = step.fit(image)
            (image, kept), (whole_scan, _) = fitted(image), fitted(whole_scan)
            passes &= kept
        on_scan = whole_scan
        to_network = axis_map(there, turned.permutation)
        to_scan = placed_back(back, turned.permutation)
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
    before: list[Intensity | Crop] = []
    after: list[Intensity | Crop] = []
    for item in transforms:
        if not isinstance(item, Mapping):
            raise ModelFileError(f"Expected transforms with a _target_ in the preprocessing of {where}, found {item}.")
        if item.get("_disabled_") is True:
            continue
        name = _DICTIONARY.sub("", str(item.get("_target_", "")).rpartition(".")[2])
        if name in _GEOMETRY_FREE:
            continue
        if name == "Orientation":
            orientation = str(item.get("axcodes", "RAS"))
        elif name == "Spacing":
            spacing = _spacing(item, where)
        elif name == "CropForeground":
            (after if spacing is not None else before).append(_crop(item, where))
        elif name in ("ForegroundMask", "SpatialPad", "DivisiblePad"):
            raise ModelFileError(f"The preprocessing of {where} uses {name}, which is not supported.")
        else:
            (after if spacing is not None else before).append(_intensity(name, item, where))
    return Steps(orientation, spacing, tuple(before), tuple(after))


def _prepared(raw: Image, steps: tuple[Intensity | Crop, ...]) -> tuple[Box, Image, np.ndarray]:
    """The scan after the steps before resampling: the box that is kept of it, its values, and where they follow it.

    Constants are taken from what is kept when a step's turn comes.
    """
    box, image, follows = Box.whole(triple(raw.shape[-3:])), raw, np.ones(raw.shape, dtype=bool)
    for step in steps:
        view = image[(slice(None), *_inside(box, raw).slices)]
        if isinstance(step, Crop):
            box = step.box(view).shifted(_inside(box, raw).start)
        else:
            image, kept = step.fit(view)(image)
            follows &= kept
    return box, image, follows


def _inside(box: Box, image: Image) -> Box:
    """The part of a box that lies in the image."""
    return box.intersection(Box.whole(triple(image.shape[-3:])))


def _cut(n: int, start: int, stop: int) -> AxisOperator:
    """Keeps start..stop of n voxels; zeros beyond them."""
    return cropping((n, 1, 1), (start, 0, 0), (stop, 1, 1))[0]


def _crop(item: Mapping[str, Any], where: str) -> Crop:
    margin = item.get("margin", 0)
    plain = item.get("select_fn") is None and item.get("channel_indices") is None and item.get("k_divisible", 1) == 1
    if not plain or not (isinstance(margin, int) and margin >= 0) or str(item.get("mode", "constant")) != "constant":
        raise ModelFileError(
            f"Expected CropForegroundd of {where} with voxels above 0, one whole number as margin and k_divisible 1, found more."
        )
    return Crop(margin, allow_smaller=bool(item.get("allow_smaller", False)))


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
