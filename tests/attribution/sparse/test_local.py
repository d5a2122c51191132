"""Local cotangents and learnt footprints give what ordinary automatic differentiation gives, layer by layer."""

import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet
from torch import nn

from lesionwise.attribution import SmoothGrad, attribute, plan_attribution
from lesionwise.attribution.engine.passes import Cotangent, Runner, WindowPass
from lesionwise.attribution.sparse.footprint import Footprint, Watched, WindowPart
from lesionwise.attribution.sparse.local import LocalCotangent
from lesionwise.geometry.box import Box

from ..conftest import place, random_scan, rescheduled, small_spec

LAYERS = {
    "strided": nn.Conv3d(2, 4, 3, stride=2, padding=1),
    "dilated, grouped": nn.Conv3d(2, 4, (3, 1, 5), padding=(2, 0, 1), dilation=(2, 1, 1), groups=2),
    "even kernel, no padding": nn.Conv3d(2, 3, 2, stride=2),
    "stride beyond the kernel": nn.Conv3d(2, 3, 2, stride=3),
    "transposed": nn.ConvTranspose3d(2, 3, 3, stride=2, padding=1, output_padding=1),
    "transposed, grouped": nn.ConvTranspose3d(2, 4, 2, stride=2, groups=2),
    "transposed, wide": nn.ConvTranspose3d(2, 3, (5, 4, 3), stride=(3, 2, 1), padding=(2, 1, 0), bias=False),
    "transposed, sparse": nn.ConvTranspose3d(2, 3, 2, stride=3, output_padding=1),
}
BOXES = [Box((3, 2, 4), (5, 3, 5)), Box((0, 0, 0), (1, 1, 1)), Box((4, 4, 4), (6, 6, 6))]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("box", BOXES, ids=str)
def test_each_geometry(layer, box):
    check(LAYERS[layer].double(), (15, 16, 17), box)


def networks():
    torch.manual_seed(0)
    small = {"channels": (4, 8, 16), "strides": (2, 2)}
    made = {
        "UNet": UNet(3, 2, 2, **small, norm="batch"),
        "UNet, residual": UNet(3, 2, 2, **small, norm="batch", num_res_units=2),
        "UNet, in place": UNet(3, 2, 2, **small, norm="batch", act=("leakyrelu", {"inplace": True})),
        "BasicUNet (pooling)": BasicUNet(3, 2, 2, features=(4, 4, 8, 8, 8, 4), norm="batch"),
        "SegResNet (group norm)": SegResNet(init_filters=8, in_channels=2, out_channels=2),
        "UNet, instance norm": UNet(3, 2, 2, **small, norm="instance"),
    }
    for network in made.values():
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return made


NETWORKS = networks()


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks(name):
    check(NETWORKS[name].double().eval(), (32, 32, 32), Box((14, 9, 15), (17, 11, 16)))


def check(module, size, box):
    module.requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 2, *size, dtype=torch.float64, generator=generator).requires_grad_(True)
    footprint, trace = Footprint(), []
    for attempt in range(2):
        runner = Runner(AsLogits(module), "local", 2)
        made = forward(runner, x, footprint)
        y = made.logits
        box = box.intersection(Box.whole(tuple(y.shape[2:])))
        seeds = torch.randn(2, y.shape[1], *box.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        (found,) = torch.autograd.grad(
            y, made.leaf, LocalCotangent(seeds, box, y.shape, made.watched.note), retain_graph=True
        )
        plain = x.detach().clone().requires_grad_(True)
        z = module(plain * 1)
        for k in range(2):
            dense = torch.zeros_like(z)
            dense[(0, slice(None), *box.slices)] = seeds[k]
            (expected,) = torch.autograd.grad(z, plain, dense, retain_graph=True)
            assert (found.dense(k) - expected).abs().max() < 1e-13 * max(1.0, float(expected.abs().max()))
            assert (made.values - z)[(..., *box.slices)].abs().max() < 1e-12
        if attempt == 0:
            made.learn([box])
            assert not footprint.refused
            assert footprint.input == found.box
        trace.append(found.box)
    assert trace[0] == trace[1]


class AsLogits(nn.Module):
    """Skips the check that logits have the window's size."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def forward(runner, x, footprint):
    leaf = x.detach()
    if footprint.within is not None:
        leaf = WindowPart(leaf[(..., *footprint.within.slices)], footprint.within, tuple(leaf.shape[2:]))
    watched = Watched(footprint, runner.convolutions)
    leaf = leaf if isinstance(leaf, torch.Tensor) else leaf.activation()
    leaf.requires_grad_(True)
    with torch.enable_grad(), watched:
        return WindowPass(runner, leaf, runner.network(leaf.clone()), watched, footprint)


def test_a_footprint_is_smaller_than_the_window_and_saves_work():
    network = NETWORKS["UNet"].double().eval().requires_grad_(False)
    footprint, runner = Footprint(), Runner(network, "local", 1)
    made = runner.forward(torch.randn(1, 2, 32, 32, 32, dtype=torch.float64), footprint)
    voxel = Cotangent(Box((16, 16, 16), (17, 17, 17)), torch.ones(2, 1, 1, 1, dtype=torch.float64))
    (part,) = made.derivatives([[voxel]])
    assert part.box.shape < (32, 32, 32)
    assert len(footprint.boxes) == 13  # five convolutions, four normalisations and four activations
    assert all(box.shape < (16, 16, 16) for box in footprint.boxes.values())


@pytest.mark.parametrize("strategy", ["local", "batched"])
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("target", ["log_odds", "probability"])
@pytest.mark.parametrize("kept", [1, 3])
def test_every_strategy_gives_the_same_map(strategy, reduce, target, kept):
    network = NETWORKS["UNet"].double().eval()
    scan = random_scan((28, 24, 20))
    spec = small_spec(window=(16, 16, 16), overlap=0.25)
    omega = np.array([[14, 12, 9], [14, 12, 10], [15, 12, 9], [14, 11, 9], [14, 14, 9]])
    other = np.array([[14, 12, 12], [13, 13, 12]])
    method = SmoothGrad(n_samples=3, reduce=reduce)
    placement = place(scan)
    plan = plan_attribution(network, spec, placement, [omega, other], method=method, target=target)
    plain, fast = (
        attribute(
            network, spec, placement, [omega, other], method=method, target=target,
            plan=rescheduled(plan, strategy=s, together=t, kept_windows=kept),
        )
        for s, t in (("loop", 1), (strategy, 3))
    )  # fmt: skip
    for a, b in zip(plain, fast, strict=True):
        assert a.box == b.box
        assert np.abs(a.data - b.data).max() < 1e-13 * np.abs(a.data).max()
        assert np.abs(a.se - b.se).max() < 1e-12 * np.abs(a.se).max()
        assert a.peak == pytest.approx(b.peak, abs=1e-15)


def test_networks_whose_cotangents_are_written_to_fall_back_to_ordinary_ones():
    torch.manual_seed(0)
    network = DynUNet(3, 2, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=(4, 8, 16)).double().eval()
    scan = random_scan((16, 16, 16))
    omega = np.array([[8, 8, 8], [9, 8, 8]])
    plan = plan_attribution(network, small_spec(window=(16, 16, 16)), place(scan), [omega], method=SmoothGrad(3))
    assert plan.schedule.strategy in ("loop", "batched")
