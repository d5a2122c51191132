"""Class activation maps by hand on one window, through windows, with hooks that leave nothing behind."""

import numpy as np
import pytest
import torch
from torch import nn

from lesionwise.attribution import GradCAMPlusPlus, HiResCAM, SegGradCAM, attribute
from lesionwise.errors import UnsupportedModelError

from ..conftest import OMEGA, place, random_scan, small_network, small_spec

METHODS = [GradCAMPlusPlus(layer="3"), GradCAMPlusPlus(layer="3", denominator="monai"), HiResCAM("3"), SegGradCAM("3")]


def by_hand(network, scan, voxels, method):
    """One window covers the scan and the layer has its resolution: no fusion, no resizing."""
    activations = network[:4](scan[None]).detach().requires_grad_(True)
    logits = network[4:](activations)[0]
    i, j, k = voxels.T
    (g,) = torch.autograd.grad((logits[1] - logits[0])[i, j, k].sum(), activations)
    a, g = activations.detach()[0], g[0]
    out = torch.zeros(a.shape[1:], dtype=a.dtype)
    for filter_a, filter_g in zip(a, g, strict=True):
        if method.name == "hirescam":
            out += filter_g * filter_a
        elif method.name == "seggradcam":
            out += filter_g.mean() * filter_a
        else:
            cubes = filter_g**3
            rest = filter_a.sum() * cubes if method.denominator == "paper" else (filter_a * cubes).sum()
            below = 2 * filter_g**2 + rest
            alpha = torch.where(below > 0, filter_g**2 / below, torch.zeros_like(below))
            out += torch.nan_to_num(alpha) * filter_g.clamp(min=0) * filter_a
    return (out if method.name == "hirescam" else out.clamp(min=0)).numpy()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{getattr(m, 'denominator', '')}")
def test_map_equals_the_formula_by_hand(method):
    scan = random_scan((9, 8, 10))
    network = small_network(seed=3)
    spec, voxels = small_spec(window=(9, 8, 10)), OMEGA[:3] - [4, 3, 2]
    found = attribute(network, spec, place(scan), [voxels], method=method)[0]
    full = np.zeros((9, 8, 10))
    full[found.box.slices] = found.data[0]
    expected = by_hand(network, scan, voxels, method)
    assert np.abs(expected).max() > 0
    assert np.abs(full - expected).max() < 1e-14
    assert method.quantitative is False


def test_windows_are_blended_by_importance(setup):
    """With HiResCAM on the logits' input the fused map is the sum over windows of share * g * A."""
    found = attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=HiResCAM("3"))[0]
    again = attribute(setup.network, setup.spec, setup.placement, [OMEGA, OMEGA[:1]], method=HiResCAM("3"))
    assert np.array_equal(found.data, again[0].data)
    assert not np.array_equal(again[0].data, again[1].data)


class Stops(nn.Module):
    def forward(self, x):
        raise KeyError("stops here")


@pytest.mark.parametrize("method", [GradCAMPlusPlus(), GradCAMPlusPlus("1"), HiResCAM("0")])
def test_hooks_never_leak(setup, method):
    attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=method)
    broken = nn.Sequential(*setup.network[:4], Stops()).eval()
    with pytest.raises(KeyError):
        attribute(broken, setup.spec, setup.placement, [OMEGA], method=method)
    for network in (setup.network, broken):
        assert all(
            not m._forward_hooks and not m._forward_pre_hooks and not m._backward_hooks for m in network.modules()
        )


def test_an_activation_in_place_after_the_layer_changes_nothing(setup):
    def network(inplace):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv3d(2, 4, 3, padding=1), nn.LeakyReLU(0.1, inplace=inplace), nn.Conv3d(4, 2, 3, padding=1)
        ).double().eval()  # fmt: skip

    maps = [
        attribute(network(inplace), setup.spec, setup.placement, [OMEGA], method=GradCAMPlusPlus("0"))[0]
        for inplace in (False, True)
    ]
    assert maps[0].data.any()
    assert np.array_equal(maps[0].data, maps[1].data)


def test_layers_that_cannot_be_asked_are_refused_in_one_sentence(setup):
    with pytest.raises(UnsupportedModelError, match="no layer named 'nowhere'"):
        attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=GradCAMPlusPlus("nowhere"))
    scripted = torch.jit.trace(setup.network, torch.zeros(1, 2, 10, 9, 8, dtype=torch.float64))
    for layer in (None, "0"):
        with pytest.raises(UnsupportedModelError, match="TorchScript"):
            attribute(scripted, setup.spec, setup.placement, [OMEGA], method=GradCAMPlusPlus(layer))
