"""The scan, network and lesions that every way of explaining is timed on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks.nets import UNet
from torch import nn

from lesionwise.geometry.grids import AxisMap
from lesionwise.instances.components import component_voxels, label_components
from lesionwise.io.cases import read_case
from lesionwise.segmenter import Placement, Segmenter, Spec
from lesionwise.types import Shape

SHAPE = (182, 218, 182)
LESION_VOX = 107


@dataclass(frozen=True, eq=False)
class Bench:
    """What is explained: `lesions[0]` has about 107 voxels, all together are the patient."""

    name: str
    network: nn.Module
    spec: Spec
    placement: Placement
    lesions: list[np.ndarray]


def network() -> nn.Module:
    """MONAI's U-Net 32-64-128-256-512 with batch normalisation, random weights."""
    torch.manual_seed(0)
    return UNet(
        3, 2, 2, channels=(32, 64, 128, 256, 512), strides=(2, 2, 2, 2), norm="batch", num_res_units=0
    ).eval()  # fmt: skip


def plain_nnunet(features: tuple[int, ...]) -> nn.Module:
    """A plain nnU-Net with instance norms and random weights: features of each stage, two convolutions a stage."""
    stages = len(features)
    return PlainConvUNet(
        2, stages, features, nn.Conv3d, 3, (1, *(2,) * (stages - 1)), 2, 2, 2, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    ).eval()  # fmt: skip


def spec() -> Spec:
    """Windows of 96^3 that overlap by a quarter, as published."""
    return Spec(name="unet", channels=("FLAIR", "T1w"), window=(96, 96, 96), overlap=0.25)


def random_scan(count: int = 25, shape: Shape = SHAPE) -> Bench:
    """Noise of 182 x 218 x 182 voxels (or another shape) with `count` blobs of about 10 to 400 voxels, the first of 107."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(1, 2, *shape)).astype(np.float32))
    grid = np.argwhere(np.ones((15, 15, 15), dtype=bool)) - 7
    order = np.argsort((grid**2).sum(axis=1), kind="stable")
    sizes = [LESION_VOX, *np.clip(rng.lognormal(3.5, 1.0, count - 1), 10, 400).astype(int)]
    centres = [np.array([72, 110, 80]) * shape // SHAPE, *(rng.uniform(0.2, 0.8, (count - 1, 3)) * shape).astype(int)]
    lesions = [centre + grid[order[:size]] for centre, size in zip(centres, sizes, strict=True)]
    identity = AxisMap.identity(shape)
    head = torch.ones(shape, dtype=torch.bool)
    sizes = (1.0, 1.0, 1.0)
    placement = Placement(image, head, torch.ones(2), identity, identity, image[0], head, sizes, sizes)
    return Bench("random scan", network(), spec(), placement, lesions)


def real_scan(folder: Path, subject: str, count: int = 25) -> Bench:
    """A scan of a BIDS folder with `derivatives/manual`, and `count` lesions of its reference, one near 107 voxels."""
    anat = folder / subject / "anat"
    reference = next((folder / "derivatives" / "manual" / subject / "anat").glob("*mask.nii.gz"))
    case = read_case(
        {"FLAIR": anat / f"{subject}_FLAIR.nii.gz", "T1w": anat / f"{subject}_T1w.nii.gz"}, reference=reference
    )
    if case.reference is None:
        raise ValueError(f"{subject} has no reference.")
    found = [v for v in component_voxels(label_components(case.reference)) if len(v) > 5]
    found.sort(key=lambda voxels: abs(len(voxels) - LESION_VOX))
    rest = [found[n] for n in np.random.default_rng(0).permutation(range(1, len(found)))[: count - 1]]
    segmenter = Segmenter(network(), spec())
    return Bench(subject, segmenter.network, segmenter.spec, segmenter.place(case), [found[0], *rest])
