"""A network small enough for any test."""

from typing import Any

import torch
from torch import nn

ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "norm": "batch",
}
"""Of `monai.networks.nets.UNet`."""


def tiny_unet() -> nn.Module:
    """A U-Net with random weights, always the same ones."""
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    return UNet(**ARGUMENTS).eval()
