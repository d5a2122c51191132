"""Whole windows by the quick convolutions: the values of PyTorch's own choice, and what they leave alone."""

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lesionwise.kernels import QuickConvolutions, has_kernels

LAYERS = {
    "first": nn.Conv3d(2, 8, 3, stride=2, padding=1),
    "dilated": nn.Conv3d(8, 6, 3, padding=2, dilation=2),
    "grouped": nn.Conv3d(8, 8, 3, groups=4),
    "last": nn.ConvTranspose3d(8, 2, 3, stride=2, padding=1, output_padding=1),
    "wide": nn.ConvTranspose3d(8, 6, 3, stride=(1, 2, 2), padding=1, output_padding=(0, 1, 1)),
    "grouped transposed": nn.ConvTranspose3d(8, 4, 2, stride=2, groups=2),
    "without bias": nn.ConvTranspose3d(8, 1, 3, bias=False),
}


def test_this_build_has_them():
    assert has_kernels()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("items", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_values_are_those_of_the_usual_way(name, items, layout):
    layer = LAYERS[name]
    channels = layer.in_channels
    x = torch.randn(items, channels, 18, 17, 16, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=layout
    )
    with torch.no_grad():
        usual = layer(x)
        with QuickConvolutions():
            quick = layer(x)
        true = layer.double()(x.double())
        layer.float()
    assert quick.shape == usual.shape
    # neither is nearer to double precision than single precision allows
    error = [float((found - true).abs().max() / true.abs().max()) for found in (quick, usual)]
    assert max(error) < 1e-5, error


def test_derivatives_are_those_of_the_usual_way():
    network = UNet(3, 2, 2, (8, 12, 16), (2, 2), norm="batch").eval()
    x = torch.randn(1, 2, 24, 24, 24, generator=torch.Generator().manual_seed(1))
    found = []
    for quick in (False, True):
        leaf = x.clone().requires_grad_(True)
        if quick:
            with QuickConvolutions():
                y = network(leaf)
        else:
            y = network(leaf)
        found.append(torch.autograd.grad(y.square().sum(), leaf)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5 * float(found[0].abs().max()))


def test_other_precisions_and_dimensions_go_the_usual_way():
    double, flat = nn.Conv3d(2, 3, 3).double(), nn.Conv2d(2, 3, 3)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, QuickConvolutions():
        double(torch.randn(1, 2, 6, 6, 6, dtype=torch.float64))
        flat(torch.randn(1, 2, 6, 6))
    assert counter.get_total_flops() > 0  # both were seen under their usual name
