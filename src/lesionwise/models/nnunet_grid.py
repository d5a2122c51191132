"""nnU-Net v2's own preprocessing, from plans.json alone: transpose, crop, normalise, resample, and the way back.

Equal to its DefaultPreprocessor; spatial steps are matrices, so that derivatives return by the exact transpose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes

from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import triple
from lesionwise.geometry.grids import AxisOperator, reorientation
from lesionwise.geometry.volume import Case
from lesionwise.models.resampling import (
    axis_map,
    cropping,
    edge_coordinates,
    exact_nearest,
    linear_at,
    nearest_at,
    placed_back,
    resample_clipped,
    spline_resize,
)
from lesionwise.segmenter import Placement, select_channels
from lesionwise.types import Millimetres, Shape

ANISOTROPY = 3.0
"""Ratio of voxel edges above which nnU-Net treats the coarse axis on its own."""

READERS = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}
"""Readers of nnU-Net and the orientation that they turn images to."""

SPLINE, LINEAR = "resample_data_or_seg_to_shape", "resample_torch_fornnunet"
RESAMPLERS = (SPLINE, LINEAR, "no_resampling_data_or_seg_to_shape", "no_resampling_hack")
"""nnU-Net's resampling functions: splines by scikit-image, linear by PyTorch (plans named ..._torchres), none."""
SCHEMES = (
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)


@dataclass(frozen=True)
class Resampler:
    """A resampling function of the plans with its arguments."""

    function: str
    order: int
    order_z: int
    force_separate_z: bool | None

    @classmethod
    def of(cls, configuration: Mapping[str, Any], what: str, *, where: str) -> "Resampler":
        """The resampler for "data" or "probabilities". Raises ModelFileError for one that is not nnU-Net's default."""
        name = configuration.get(f"resampling_fn_{what}", RESAMPLERS[0])
        if name not in RESAMPLERS:
            raise ModelFileError(
                f"Expected one of the resampling functions {', '.join(RESAMPLERS)}, found {name} in {where}."
            )
        given = configuration.get(f"resampling_fn_{what}_kwargs", {})
        if name == LINEAR:
            modes = (given.get("mode", "linear"), given.get("aniso_axis_mode", "nearest-exact"))
            if modes != ("linear", "nearest-exact"):
                raise ModelFileError(f"Expected {LINEAR} with linear and nearest-exact, found {modes} in {where}.")
            return cls(name, 1, 0, given.get("force_separate_z"))
        order = 3 if what == "data" else 1
        return cls(name, given.get("order", order), given.get("order_z", 0), given.get("force_separate_z"))

    def separate_axis(self, current_mm: Sequence[float], new_mm: Sequence[float]) -> int | None:
        """The coarse axis that is resampled on its own, None if there is none."""
        if self.force_separate_z is not None:
            coarse = _coarse(current_mm) if self.force_separate_z else []
        elif max(current_mm) / min(current_mm) > ANISOTROPY:
            coarse = _coarse(current_mm)
        elif max(new_mm) / min(new_mm) > ANISOTROPY:
            coarse = _coarse(new_mm)
        else:
            coarse = []
        return coarse[0] if len(coarse) == 1 else None

    def matrices(
        self, source: Shape, target: Shape, *, current_mm: Sequence[float], new_mm: Sequence[float]
    ) -> tuple[list[AxisOperator], int | None]:
        """One matrix per axis, and the axis that is resampled on its own (last), if any."""
        if self.function not in (SPLINE, LINEAR) or source == target:
            return [np.eye(n) for n in source], None
        axis = self.separate_axis(current_mm, new_mm)
        if self.function == LINEAR:
            pairs = enumerate(zip(source, target, strict=True))
            return [(exact_nearest if a == axis else linear_at)(n, edge_coordinates(n, m)) for a, (n, m) in pairs], axis
        matrices = [spline_resize(n, m, self.order) for n, m in zip(source, target, strict=True)]
        if axis is not None and source[axis] != target[axis]:
            at = edge_coordinates(source[axis], target[axis])
            if self.order_z not in (0, 1):
                raise InputError(f"Expected order_z 0 or 1 in nnU-Net's plans, found {self.order_z}.")
            matrices[axis] = (nearest_at if self.order_z == 0 else linear_at)(source[axis], at)
        return matrices, axis


@dataclass(frozen=True)
class PreprocessingPlan:
    """What plans.json and dataset.json say about the way from a scan to the network's grid.

    `transpose` acts on the reader's axes (k, j, i); `spacing_mm` is per transposed axis, two entries for 2-D
    configurations; `schemes` and `masked` are per channel; `intensities` holds the training set's statistics.
    """

    orientation: str | None
    transpose: tuple[int, int, int]
    spacing_mm: tuple[float, ...]
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    intensities: Mapping[str, Mapping[str, float]]
    data: Resampler
    probabilities: Resampler

    @classmethod
    def of(cls, plans: Mapping[str, Any], configuration: Mapping[str, Any], *, where: str) -> "PreprocessingPlan":
        """Reads the recipe. Raises ModelFileError for preprocessors, readers or schemes that are not nnU-Net's own."""
        preprocessor = configuration.get("preprocessor_name", "DefaultPreprocessor")
        if preprocessor != "DefaultPreprocessor":
            raise ModelFileError(f"Expected nnU-Net's DefaultPreprocessor, found {preprocessor} in {where}.")
        reader = plans.get("image_reader_writer", "SimpleITKIO")
        if reader not in READERS:
            raise ModelFileError(f"Expected one of the readers {', '.join(READERS)}, found {reader} in {where}.")
        schemes = tuple(configuration["normalization_schemes"])
        odd = [scheme for scheme in schemes if scheme not in SCHEMES]
        if odd:
            raise ModelFileError(f"Expected normalisation among {', '.join(SCHEMES)}, found {odd[0]} in {where}.")
        a, b, c = plans["transpose_forward"]
        intensities = plans.get(
            "foreground_intensity_properties_per_channel", plans.get("foreground_intensity_properties_by_modality", {})
        )
        return cls(
            orientation=READERS[reader],
            transpose=(int(a), int(b), int(c)),
            spacing_mm=tuple(float(v) for v in configuration["spacing"]),
            schemes=schemes,
            masked=tuple(bool(v) for v in configuration["use_mask_for_norm"]),
            intensities=intensities,
            data=Resampler.of(configuration, "data", where=where),
            probabilities=Resampler.of(configuration, "probabilities", where=where),
        )

    def sentences(self) -> tuple[str, ...]:
        """The steps in words."""
        lines = [f"turned to {self.orientation}"] if self.orientation else []
        lines.append(
            f"axes in the order {'kji'[self.transpose[0]]}{'kji'[self.transpose[1]]}{'kji'[self.transpose[2]]}"
        )
        lines.append("cropped to non-zero voxels")
        lines += [
            f"channel {n}: {scheme}{' over non-zero voxels' if mask and scheme == SCHEMES[0] else ''}"
            for n, (scheme, mask) in enumerate(zip(self.schemes, self.masked, strict=True))
        ]
        lines.append(f"resampled to {' x '.join(f'{v:g}' for v in self.spacing_mm)} mm (order {self.data.order})")
        return tuple(lines)

    def place(self, case: Case, channels: tuple[str, ...]) -> Placement:
        """Lays a case on the network's grid as nnU-Net's preprocessor would.

        Raises InputError if a channel is missing or the scan is zero everywhere.
        """
        turned = reorientation(case.image.affine, case.image.shape, axes=self.orientation)
        permutation = tuple(turned.permutation[2 - axis] for axis in self.transpose)
        flips = [turned.matrices[2 - axis] for axis in self.transpose]
        sizes = voxel_sizes_mm(case.image.affine)
        current_mm = [sizes[axis] for axis in permutation]
        reader = axis_map(flips, permutation)
        # stored last axis first, as nnU-Net's readers do: float32 sums then run in the same order
        image = np.ascontiguousarray(reader.forward(torch.from_numpy(select_channels(case, channels))).numpy())
        head = reader.forward(torch.from_numpy(case.head.astype(np.float32)))

        nonzero = binary_fill_holes(np.any(image != 0, axis=0))
        if not nonzero.any():
            raise InputError("Expected a scan with intensities, found zero everywhere.")
        where = np.argwhere(nonzero)
        start, stop = where.min(axis=0), where.max(axis=0) + 1
        inside = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        cropped = np.stack([self._normalise(n, channel[inside], nonzero[inside]) for n, channel in enumerate(image)])
        follows = np.stack([self._follows(n, channel) for n, channel in enumerate(image)])

        size = tuple(int(n) for n in cropped.shape[1:])
        target_mm = [current_mm[0], *self.spacing_mm] if len(self.spacing_mm) == 2 else list(self.spacing_mm)
        target = tuple(round(a / b * n) for a, b, n in zip(current_mm, target_mm, size, strict=True))
        there, separate = self.data.matrices(triple(size), triple(target), current_mm=current_mm, new_mm=target_mm)
        back, _ = self.probabilities.matrices(triple(target), triple(size), current_mm=target_mm, new_mm=current_mm)
        crops = cropping(triple(nonzero.shape), triple(start), triple(stop))
        to_network = axis_map([r @ c @ f for r, c, f in zip(there, crops, flips, strict=True)], permutation)
        to_scan = placed_back([f.T @ c.T @ r for r, c, f in zip(back, crops, flips, strict=True)], permutation)

        resampled, unclipped = resample_clipped(torch.from_numpy(cropped), there, separate)
        scale = torch.stack([torch.from_numpy(c)[head[inside] > 0.5].double().std(correction=0) for c in cropped])
        normalised = np.zeros(image.shape, dtype=np.float32)
        normalised[(slice(None), *inside)] = cropped
        return Placement(
            resampled[None].contiguous(),
            to_network.forward(torch.from_numpy(case.head.astype(np.float32))) > 0.5,
            scale.float(),
            to_network,
            to_scan,
            scan=reader.adjoint(torch.from_numpy(normalised)).contiguous(),
            scan_head=torch.from_numpy(case.head),
            sizes_mm=_sizes(current_mm, size, target),
            scan_sizes_mm=sizes,
            passes=None if bool(unclipped.all()) else unclipped,
            scan_passes=None if follows.all() else reader.adjoint(torch.from_numpy(follows).float()) > 0.5,
        )

    def _normalise(self, channel: int, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """One cropped channel in the network's units, in float32 as nnU-Net does it."""
        scheme, out = self.schemes[channel], image.astype(np.float32)
        if scheme == "ZScoreNormalization":
            if self.masked[channel]:
                out[mask] = (out[mask] - out[mask].mean()) / max(out[mask].std(), 1e-8)
                return out
            return (out - out.mean()) / max(out.std(), 1e-8)
        if scheme == "CTNormalization":
            known = self.intensities[str(channel)]
            clipped = np.clip(out, known["percentile_00_5"], known["percentile_99_5"])
            return ((clipped - known["mean"]) / max(known["std"], 1e-8)).astype(np.float32)
        if scheme == "RescaleTo01Normalization":
            out = out - out.min()
            return out / max(out.max(), 1e-8)
        return out / np.float32(255.0) if scheme == "RGBTo01Normalization" else out

    def _follows(self, channel: int, image: np.ndarray) -> np.ndarray:
        """False where normalisation clips the intensity."""
        if self.schemes[channel] != "CTNormalization":
            return np.ones(image.shape, dtype=bool)
        known = self.intensities[str(channel)]
        return (image >= known["percentile_00_5"]) & (image <= known["percentile_99_5"])


def _coarse(spacing_mm: Sequence[float]) -> list[int]:
    return [axis for axis, value in enumerate(spacing_mm) if max(spacing_mm) / value == 1]


def _sizes(current_mm: Sequence[float], source: Sequence[int], target: Sequence[int]) -> Millimetres:
    """Voxel sizes after resampling to so many voxels: the grids share their outer edges."""
    a, b, c = (mm * n / m for mm, n, m in zip(current_mm, source, target, strict=True))
    return a, b, c
