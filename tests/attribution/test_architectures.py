"""Every architecture gives the map of ordinary autograd through its fused logits, and is left as found."""

import numpy as np
import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet, SwinUNETR, UNet
from torch import nn

from lesionwise.attribution import GradCAMPlusPlus, SmoothGrad, attribute
from lesionwise.segmenter import full_resolution

from .conftest import place, random_scan, small_spec
from .methods.test_gradient import full, noises_of, reference

OMEGA = np.array([[16, 17, 14], [16, 18, 14], [17, 17, 15]])
WINDOW = (32, 32, 32)


class Heads(nn.Module):
    """Deep supervision as a list (coarse heads last) or stacked, as frameworks differ."""

    def __init__(self, inner, how):
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x):
        y = self.inner(x)
        coarse = nn.functional.avg_pool3d(y, 2)
        again = nn.functional.interpolate(coarse, y.shape[2:])
        return {"list": [y, coarse], "stacked": torch.stack([y, again], dim=1), "dict": {"out": y, "aux": coarse}}[
            self.how
        ]


def unet(**changes):
    return UNet(3, 2, 2, channels=(4, 8, 8), strides=(2, 2), **{"norm": "batch", **changes})


class Member(nn.Module):
    """Two networks whose probabilities are averaged."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList([unet(), unet()])

    def forward(self, x):
        return torch.cat([member(x) for member in self.members], dim=1)


def scripted():
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1)
    ).eval()  # fmt: skip


def build(name):
    torch.manual_seed(0)
    spec = small_spec(window=WINDOW, overlap=0.25)
    made = {
        "UNet": lambda: unet(),
        "UNet residual": lambda: unet(num_res_units=2),
        "DynUNet": lambda: DynUNet(3, 2, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=(4, 4, 8), deep_supervision=True),
        "SegResNet": lambda: SegResNet(init_filters=8, in_channels=2, out_channels=2, blocks_down=(1, 1), blocks_up=(1,)),
        "SwinUNETR": lambda: SwinUNETR(in_channels=2, out_channels=2, feature_size=12, depths=(1, 1, 1, 1)),
        "list": lambda: Heads(unet(), "list"),
        "stacked": lambda: Heads(unet(), "stacked"),
        "dict": lambda: Heads(unet(), "dict"),
        "in place": lambda: nn.Sequential(nn.ReLU(inplace=True), unet(act=("leakyrelu", {"inplace": True}))),
        "TorchScript": lambda: torch.jit.script(scripted()),
        "sigmoid": lambda: UNet(3, 2, 1, channels=(4, 8), strides=(2,), norm="instance"),
        "ensemble": lambda: Member(),
    }  # fmt: skip
    network = made[name]().double().eval()
    if name == "sigmoid":
        spec = small_spec(window=WINDOW, overlap=0.25, classes=1, lesion_class=0, activation="sigmoid")
    if name == "SwinUNETR":  # its instance norms need more than one voxel at the lowest level
        spec = small_spec(window=(64, 64, 64), overlap=0.25)
    if name == "ensemble":
        spec = small_spec(window=WINDOW, overlap=0.25, members=2)
    return network, spec


NAMES = [
    "UNet", "UNet residual", "DynUNet", "SegResNet", "list", "stacked", "dict", "in place", "TorchScript", "sigmoid",
    pytest.param("SwinUNETR", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_windowed_map_equals_autograd(name):
    network, spec = build(name)
    slow = name == "SwinUNETR"
    scan = random_scan((spec.window[0] + 5 * (not slow), *spec.window[1:]))
    placement = place(scan)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    flags = [p.requires_grad for p in network.parameters()]
    method = SmoothGrad(n_samples=1 if slow else 3)
    found = attribute(network, spec, placement, [OMEGA], method=method)[0]
    noises = noises_of(spec, placement, method)
    plain = FirstHead(network)
    expected = reference(plain, spec, placement, scan, OMEGA, "log_odds", noises=noises)
    assert np.abs(expected).max() > 0
    assert np.abs(full(found, scan.shape[1:]) - expected).max() < 1e-12 * max(1.0, np.abs(expected).max())
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert [p.requires_grad for p in network.parameters()] == flags


class FirstHead(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return full_resolution(self.inner(x), x.shape[2:])


def test_an_ensemble_is_explained_by_the_log_odds_of_its_mean_probability():
    network, spec = build("ensemble")
    scan = random_scan((32, 32, 32))
    placement, method = place(scan), SmoothGrad(n_samples=1, noise=0.0)
    found = attribute(network, spec, placement, [OMEGA], method=method)[0]
    leaf = scan.clone().requires_grad_(True)
    p = torch.stack([torch.softmax(member(leaf[None])[0], dim=0)[1] for member in network.members]).mean(dim=0)
    y = torch.logit(p[tuple(OMEGA.T)]).mean()
    (expected,) = torch.autograd.grad(y, leaf)
    expected *= placement.scale.reshape(-1, 1, 1, 1)
    assert found.target_mean == pytest.approx(float(y.detach()), abs=1e-12)
    assert np.abs(full(found, scan.shape[1:]) - expected.numpy()).max() < 1e-12


@pytest.mark.slow
def test_activation_maps_of_a_swin_transformer():
    """Channels-last blocks and the decoder both have maps, on the same instance."""
    network, spec = build("SwinUNETR")
    scan = random_scan(spec.window).float()
    for layer in ("swinViT.layers2.0.blocks.0.mlp", None):
        found = attribute(network.float(), spec, place(scan), [OMEGA], method=GradCAMPlusPlus(layer=layer))[0]
        assert np.isfinite(found.data).all()
        assert found.data.shape[0] == 1
