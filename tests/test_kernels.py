"""Whole windows by the quick convolutions: the values of PyTorch's own choice, and what they leave alone."""

from itertools import product

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lesionwise.kernels import QuickConvolutions, by_phases, has_kernels

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
    x = torch.randn(items, channels, 22, 21, 20, generator=torch.Generator().manual_seed(0)).contiguous(
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


def test_phases_of_every_stride_padding_and_kernel():
    generator, compared = torch.Generator().manual_seed(2), 0
    for width, stride, padding, more in product((1, 2, 3, 4, 5), (1, 2, 3), (0, 1, 2), (0, 1, 2)):
        if more < stride and (4 - 1) * stride - 2 * padding + width + more > 0:  # what PyTorch allows
            geometry = [(stride, 1, stride), (padding, 0, padding), (more, 0, more)]
            x, weight = (
                torch.randn(2, 3, 4, 5, 4, generator=generator),
                torch.randn(3, 2, width, 2, width, generator=generator),
            )
            usual = nn.functional.conv_transpose3d(x, weight, torch.ones(2), *geometry)
            torch.testing.assert_close(by_phases(x, weight, torch.ones(2), *geometry), usual, rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared == 89, compared


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
