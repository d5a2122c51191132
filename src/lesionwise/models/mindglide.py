"""MindGlide: a MONAI DynUNet for any one modality, 20 classes of which 18 is lesion.

Rebuilt from MONAI with the same weight names, so that the package need not be installed. The weights are the user's: the
file _20240404_conjurer_trained_dice_7733.pt of MS-PINPOINT/mindglide on the Hugging Face Hub.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.grids import reorientation
from lesionwise.geometry.volume import Case
from lesionwise.models.architecture import load_weights
from lesionwise.models.resampling import (
    axis_map,
    cropping,
    edge_coordinates,
    nearest_at,
    placed_back,
    resample_clipped,
    spline_resize,
)
from lesionwise.models.statedict import read_weights
from lesionwise.network import without_in_place
from lesionwise.segmenter import AbstractModuleSegmenter, AbstractSegmenter, Placement, Spec, select_channels
from lesionwise.types import Shape

OPTIONS = {"weights": "the checkpoint file", "channel": "the scan's one channel (FLAIR)"}
SUMMARY = "MindGlide (mindglide?channel=T1w for another modality than FLAIR); weights are yours"
WINDOW: Shape = (128, 128, 64)
CLASSES, LESION = 20, 18
WEIGHTS = "_20240404_conjurer_trained_dice_7733.pt"
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 1]]


def load_named(options: Mapping[str, str]) -> AbstractSegmenter:
    """The network on one `channel` (FLAIR); `weights` is the checkpoint file.

    Raises ModelFileError that says where weights were looked for.
    """
    path = find_weights(options.get("weights"))
    network = load_weights(build_network(), read_weights(path), where=str(path))
    return MindGlide.of(network, channel=options.get("channel", "FLAIR"))


def find_weights(given: str | None = None) -> Path:
    """The checkpoint: given, of MODEL_PATH, else in the Hugging Face cache where the package leaves it."""
    if given is not None or os.environ.get("MODEL_PATH"):
        path = Path(given or os.environ["MODEL_PATH"]).expanduser()
        if not path.is_file():
            raise ModelFileError(f"Expected MindGlide's weights in {path}, but there is no such file.")
        return path
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub") / "models--MS-PINPOINT--mindglide" / "snapshots"
    found = sorted(hub.glob(f"*/{WEIGHTS}"))
    if not found:
        raise ModelFileError(
            f"Expected MindGlide's weights {WEIGHTS} in {hub} or in MODEL_PATH, found none: download the file from "
            "huggingface.co/MS-PINPOINT/mindglide and name it with mindglide?weights=FILE."
        )
    return found[-1]


def build_network() -> nn.Module:
    """MindGlide's DynUNet: kernels and strides of MONAI's recipe for 128 x 128 x 64 at 1 mm."""
    from monai.networks.nets import DynUNet

    network = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=CLASSES,
        kernel_size=[[3, 3, 3]] * len(STRIDES),
        strides=STRIDES,
        upsample_kernel_size=STRIDES[1:],
        norm_name="instance",
        deep_supervision=True,
        deep_supr_num=3,
    )
    return without_in_place(network)


@dataclass(frozen=True, eq=False)
class MindGlide(AbstractModuleSegmenter):
    """MindGlide with its preprocessing: RAS, crop to positive voxels, 1 mm (spline), z-score of the non-zero voxels."""

    @classmethod
    def of(cls, network: nn.Module, *, channel: str = "FLAIR") -> "MindGlide":
        """Wraps a network."""
        spec = Spec(
            name="mindglide",
            channels=(channel,),
            window=WINDOW,
            overlap=0.5,
            blending="gaussian",
            activation="softmax",
            classes=CLASSES,
            lesion_class=LESION,
            threshold=0.5,
            orientation=None,
            spacing_mm=None,
            normalisation="none",
            card={"kind": "MindGlide", "citation": "Goebl et al., Nature Communications 2025"},
        )
        return cls(network.eval(), spec)

    @property
    def preprocessing(self) -> tuple[str, ...]:
        """The steps before the network, in words."""
        return (
            "turned to RAS",
            "cropped to positive voxels",
            "resampled to 1 x 1 x 1 mm (order 3; through-plane nearest where voxels are anisotropic)",
            "z-scored over non-zero voxels",
        )

    def place(self, case: Case) -> Placement:
        """MindGlide's own steps. Logits come back by linear interpolation (it resamples hard labels instead).

        Raises InputError for a scan without positive voxels.
        """
        turned = reorientation(case.image.affine, case.image.shape, axes="RAS")
        raw = turned.forward(torch.from_numpy(select_channels(case, self.spec.channels)))
        positive = np.argwhere(raw.numpy().max(axis=0) > 0)
        if not len(positive):
            raise InputError("Expected a scan with positive intensities, found none.")
        box = Box.around(positive)
        crops = cropping(turned.target_shape, box.start, box.stop)
        sizes = [voxel_sizes_mm(case.image.affine)[axis] for axis in turned.permutation]
        there, back, separate = _resampling(box.shape, sizes)
        cut = raw[(slice(None), *box.slices)]
        image, unclipped = resample_clipped(cut, there, separate)
        inside = image != 0
        spread = float(image[inside].std(correction=0)) or 1.0
        mean = image[inside].mean()
        image = torch.where(inside, (image - mean) / spread, image)
        flips = turned.matrices
        to_network = axis_map([r @ c @ f for r, c, f in zip(there, crops, flips, strict=True)], turned.permutation)
        passes = unclipped & inside
        n, m = box.shape, image.shape[1:]
        grid_mm = (sizes[0] * n[0] / m[0], sizes[1] * n[1] / m[1], sizes[2] * n[2] / m[2])
        scan = turned.adjoint(torch.where(raw != 0, (raw - mean) / spread, raw))
        return Placement(
            image[None].contiguous(),
            to_network.forward(torch.from_numpy(case.head.astype(np.float32))) > 0.5,
            torch.tensor([float(case.image.channel(self.spec.channels[0])[case.head].std()) / spread]),
            to_network,
            placed_back([f.T @ c.T @ r for r, c, f in zip(back, crops, flips, strict=True)], turned.permutation),
            scan=scan.float().contiguous(),
            scan_head=torch.from_numpy(case.head),
            sizes_mm=grid_mm,
            scan_sizes_mm=voxel_sizes_mm(case.image.affine),
            passes=None if bool(passes.all()) else passes,
        )


def _resampling(shape: Shape, sizes_mm: list[float]) -> tuple[list[np.ndarray], list[np.ndarray], int | None]:
    """Matrices to 1 mm and back, and the axis that is resampled on its own (always the last, as MindGlide does)."""
    if max(abs(size - 1.0) for size in sizes_mm) < 1e-6:
        return [np.eye(n) for n in shape], [np.eye(n) for n in shape], None
    target = [max(1, int(size * n)) for size, n in zip(sizes_mm, shape, strict=True)]
    there = [spline_resize(n, m, 3) for n, m in zip(shape, target, strict=True)]
    back = [spline_resize(m, n, 1) for n, m in zip(shape, target, strict=True)]
    if max(sizes_mm) / min(sizes_mm) < 3:
        return there, back, None
    there[2] = nearest_at(shape[2], edge_coordinates(shape[2], target[2]))
    return there, back, 2
