"""Small networks and scans whose derivatives can be checked by hand or by plain autograd."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.grids import AxisMap, on_spacing, sizes_on_spacing
from lesionwise.segmenter import Placement, Spec

OBLIQUE = np.array([[0.0, -1.3, 0.2, 5], [1.1, 0.1, 0.3, -7], [0.1, 0.3, 0.9, 3], [0, 0, 0, 1]])


@dataclass(frozen=True, eq=False)
class Setup:
    """A network, its spec and a placed scan."""

    network: nn.Module
    spec: Spec
    placement: Placement
    scan: torch.Tensor


def small_network(channels: int = 2, outputs: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(channels, 4, 3, padding=1), nn.Tanh(), nn.Conv3d(4, 4, 3, padding=1), nn.Softplus(),
        nn.Conv3d(4, outputs, 3, padding=1),
    ).double().eval()  # fmt: skip


def small_spec(**changes) -> Spec:
    settings = {"name": "test", "channels": ("FLAIR", "T1w"), "window": (10, 9, 8), "overlap": 0.4, **changes}
    return Spec(**settings)


def place(scan: torch.Tensor, *, affine: np.ndarray | None = None, spacing_mm: float | None = None) -> Placement:
    """A random scan's placement; with an affine it is turned and resampled on the way."""
    shape = tuple(scan.shape[1:])
    if affine is None:
        there = back = AxisMap.identity(shape)
    else:
        there, back = on_spacing(affine, shape, axes="RAS", spacing_mm=spacing_mm)
    image = there.forward(scan)
    head = torch.ones(image.shape[1:], dtype=torch.bool)
    head[0], head[:, :2] = False, False
    scale = torch.tensor([1.0, 0.7][: len(scan)], dtype=scan.dtype)
    sizes = (1.0, 1.0, 1.0) if affine is None else sizes_on_spacing(affine, shape, axes="RAS", spacing_mm=spacing_mm)
    scan_sizes = (1.0, 1.0, 1.0) if affine is None else voxel_sizes_mm(affine)
    scan_head = there.adjoint(head.double()) > 0.25
    return Placement(image[None].contiguous(), head, scale, there, back, scan, scan_head, sizes, scan_sizes)


def random_scan(shape=(17, 14, 13), channels: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(channels, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rescheduled(plan, **changes):
    """The same plan, done in another way."""
    return replace(plan, schedule=replace(plan.schedule, **changes))


@pytest.fixture
def setup() -> Setup:
    scan = random_scan()
    return Setup(small_network(), small_spec(), place(scan), scan)


OMEGA = np.array([[8, 7, 6], [8, 7, 7], [9, 7, 6], [9, 8, 6], [5, 5, 5]])
"""Voxels that straddle several windows."""
