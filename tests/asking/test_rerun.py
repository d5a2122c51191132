"""A network run again on a changed input gives what an ordinary pass gives, and computes less."""

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, UNet
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lesionwise.asking.rerun import Rerun
from lesionwise.geometry.box import Box

SIDE = 32
WANTED = Box((13, 18, 11), (17, 21, 14))


class Mixed(nn.Module):
    """What the rules do not know: pooling, interpolation, concatenation of three, an in-place activation, a branch."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv3d(2, 4, 3, padding=1),
            nn.Conv3d(4, 4, 3, padding=2, dilation=2),
            None,
        )
        self.last = nn.Conv3d(12, 2, 1)

    def forward(self, x):
        y = self.first(x)
        early = self.second(y)
        F.relu_(y)
        low = F.interpolate(F.max_pool3d(y, 2), scale_factor=2, mode="trilinear")
        return self.last(torch.cat([y, F.leaky_relu_(early, 0.1), low * torch.sigmoid(y)], dim=1))


class Scaled(nn.Module):
    """Scales by a statistic that no derivative comes through: it depends on what the footprint leaves out."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1)

    def forward(self, x):
        y = self.first(x)
        return self.last(y / y.detach().std())


class Gated(nn.Module):
    """Weighs channels by their mean over the window, as squeeze and excitation do."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = (
            nn.Conv3d(2, 4, 3, padding=1),
            nn.Conv3d(4, 4, 1),
            nn.Conv3d(4, 2, 3, padding=1),
        )

    def forward(self, x):
        y = self.first(x)
        return self.last(y * torch.sigmoid(self.gate(F.adaptive_avg_pool3d(y, 1))))


class InPlace(nn.Module):
    """Writes into its own input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(F.relu_(x))


class Sequence(nn.Module):
    """Voxels as a sequence, as transformers see them."""

    def __init__(self):
        super().__init__()
        self.mix, self.last = nn.Linear(2, 4), nn.Conv3d(4, 2, 3, padding=1)

    def forward(self, x):
        y = self.mix(x.flatten(2).transpose(1, 2)).transpose(1, 2)
        return self.last(y.reshape(x.shape[0], 4, *x.shape[2:]))


def unet(**options):
    return UNet(3, 2, 2, channels=(4, 6, 8), strides=(2, 2), **options)


NETWORKS = {
    "unet": unet(norm="batch"),
    "residual unet": unet(norm="batch", num_res_units=2),
    "unet with instance norm": unet(norm="instance"),
    "basic unet": BasicUNet(3, 2, 2, features=(4, 4, 6, 8, 8, 4), norm="batch"),
    "dynunet": DynUNet(3, 2, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 6, 8), norm_name="batch", res_block=True),
    "mixed": Mixed(),
    "sequence": Sequence(),
    "scaled": Scaled(),
    "gated": Gated(),
}


WHOLE = ("sequence", "scaled", "unet with instance norm")
"""Networks that gather values over the grid, and are therefore run whole."""


def inputs():
    torch.manual_seed(0)
    reference, other = torch.randn(2, 2, SIDE, SIDE, SIDE, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIDE) - at for at in (15, 19, 12)], indexing="ij")).double()
    distance = grid.norm(dim=0)
    changed = [torch.where(distance <= mm, other, reference) for mm in (0, 2, 5, 11, 40)]
    far = reference.clone()
    far[:, 0, 0, 0] += 1
    one_channel = reference.clone()
    one_channel[1, 14:16, 18, 12] = 0
    return reference, [reference.clone(), *changed, far, one_channel]


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_gives_what_an_ordinary_pass_gives(name, learn):
    network = NETWORKS[name].double().eval()
    reference, changed = inputs()
    rerun = Rerun(network, reference, wanted=WANTED, learn=learn)
    for x, found in zip(changed, rerun.logits(changed), strict=True):
        with torch.no_grad():
            expected = network(x[None])[0]
        torch.testing.assert_close(found[(..., *WANTED.slices)], expected[(..., *WANTED.slices)], rtol=0, atol=1e-10)
        if not learn:
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert rerun.refused == (name in WHOLE or (learn and name == "gated"))
    with torch.no_grad():  # the reference's own logits were not written into
        torch.testing.assert_close(rerun.before, network(reference[None])[0], rtol=0, atol=0)


def test_a_network_that_writes_into_its_input_leaves_the_windows_alone():
    network = InPlace().double().eval()
    reference, changed = inputs()
    kept = [x.clone() for x in (reference, *changed)]
    rerun = Rerun(network, reference, wanted=WANTED, learn=False)
    for x in changed:
        with torch.no_grad():
            expected = network(x[None].clone())[0]
        torch.testing.assert_close(rerun.logits([x])[0], expected, rtol=0, atol=1e-10)
    assert all(torch.equal(x, before) for x, before in zip((reference, *changed), kept, strict=True))


def test_it_computes_what_the_change_reaches_and_the_lesion_reads():
    network = NETWORKS["unet"].double().eval()
    reference, (_, _, small, *_, everywhere, far, _) = inputs()
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        network(reference[None])
    for learn, x, share in ((False, small, 0.35), (True, everywhere, 0.7), (True, far, 0.05)):
        rerun = Rerun(network, reference, wanted=WANTED, learn=learn)
        with FlopCounterMode(display=False) as counter:
            rerun.logits([x])
        assert counter.get_total_flops() < share * whole.get_total_flops(), (learn, share)


def test_a_network_that_takes_other_steps_with_a_graph_is_recorded_without_one():
    class TwoWays(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(x * 1.0 if torch.is_grad_enabled() else x)

    network = TwoWays().double().eval()
    reference, (_, _, small, *_) = inputs()
    rerun = Rerun(network, reference, wanted=WANTED)
    with torch.no_grad():
        expected = network(small[None])[0]
    found = rerun.logits([small])[0]
    torch.testing.assert_close(found[(..., *WANTED.slices)], expected[(..., *WANTED.slices)], rtol=0, atol=1e-10)
    assert not rerun.refused


def test_a_network_that_does_something_else_is_run_whole():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(x) if float(x[0, 0, 0, 0, 0]) > 0 else torch.tanh(self.conv(x))

    network = Fickle().double().eval()
    reference = torch.ones(2, 8, 8, 8, dtype=torch.float64)
    rerun = Rerun(network, reference, wanted=Box.whole((8, 8, 8)), learn=False)
    with torch.no_grad():
        torch.testing.assert_close(rerun.logits([-reference])[0], network(-reference[None])[0])
    assert rerun.refused
