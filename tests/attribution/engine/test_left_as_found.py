"""The caller's network and the state of autograd are the same after explaining, whatever happened in between."""

import numpy as np
import pytest
import torch
from torch import nn

from lesionwise.attribution import GradCAMPlusPlus, IntegratedGradients, SmoothGrad, attribute, plan_attribution, stream

from ..conftest import OMEGA

METHODS = {
    "mean": SmoothGrad(n_samples=2),
    "max": SmoothGrad(n_samples=1, reduce="max", max_voxels=2),
    "ig": IntegratedGradients(2),
    "cam": GradCAMPlusPlus(layer="inner.2"),
}


class Fragile(nn.Module):
    """Fails in the forward pass or the backward pass number `fails_at`; has a dropout and a hook of the caller's."""

    def __init__(self, inner, where="forward", fails_at=None):
        super().__init__()
        self.inner, self.dropout, self.where, self.fails_at, self.passes = inner, nn.Dropout(0.5), where, fails_at, 0

    def forward(self, x):
        y = self.dropout(self.inner(x))
        if y.requires_grad and self.where == "backward":
            y.register_hook(lambda grad: self._count())
        elif self.where == "forward":
            self._count()
        return y

    def _count(self):
        self.passes += 1
        if self.fails_at is not None and self.passes > self.fails_at:
            raise ValueError("inside the network")


def state_of(network):
    hooks = [
        len(getattr(module, kind))
        for module in network.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    ]
    values = {key: value.clone() for key, value in network.state_dict().items()}
    flags = [(p.requires_grad, p.grad is None) for p in network.parameters()]
    return hooks, flags, [module.training for module in network.modules()], values


def same_state(network, before):
    now = state_of(network)
    assert now[:3] == before[:3]
    assert all(torch.equal(now[3][key], value) for key, value in before[3].items())


def prepared(setup, **failure):
    network = Fragile(setup.network, **failure).double()
    network.train()
    network.inner[2].eval()  # some modules in training, some not
    network.inner[0].weight.requires_grad_(False)
    seen = []
    network.inner[1].register_forward_hook(lambda *_: seen.append(1))
    return network, seen


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_after_a_map(setup, method, mode):
    network, seen = prepared(setup)
    before, generator = state_of(network), torch.random.get_rng_state()
    with mode():
        enabled = torch.is_grad_enabled()
        found = attribute(network, setup.spec, setup.placement, [OMEGA], method=METHODS[method])
        assert torch.is_grad_enabled() == enabled
    assert seen  # the caller's own hook was heard
    assert np.abs(found[0].data).max() > 0
    same_state(network, before)
    assert torch.equal(torch.random.get_rng_state(), generator)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("where", "fails_at"), [("forward", 0), ("forward", 24), ("backward", 1)])
def test_after_an_error_inside_the_network(setup, method, where, fails_at):
    network, _ = prepared(setup)
    plan = plan_attribution(network, setup.spec, setup.placement, [OMEGA], method=METHODS[method])
    network.where, network.fails_at, network.passes = where, fails_at, 0
    before, enabled = state_of(network), torch.is_grad_enabled()
    with pytest.raises(ValueError, match="inside the network"):
        attribute(network, setup.spec, setup.placement, [OMEGA], method=METHODS[method], plan=plan)
    same_state(network, before)
    assert torch.is_grad_enabled() == enabled
    assert not setup.placement.input.requires_grad


def test_after_giving_up_half_way(setup):
    network, _ = prepared(setup)
    before = state_of(network)
    maps = stream(network, setup.spec, setup.placement, [OMEGA, OMEGA[:1]], method=SmoothGrad(n_samples=1))
    next(maps)
    maps.close()
    same_state(network, before)


def test_batch_normalisation_in_evaluation_mode_learns_nothing(setup):
    network = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(inplace=True)).double().eval()
    before, image = state_of(network), setup.placement.input.clone()
    attribute(network, setup.spec, setup.placement, [OMEGA], method=SmoothGrad(n_samples=2))
    same_state(network, before)
    assert torch.equal(setup.placement.input, image)


@pytest.mark.parametrize("tf32", [False, True])
def test_convolutions_are_not_rounded_unless_asked_for(setup, tf32):
    """PyTorch rounds float32 convolutions on CUDA to TF32 by default; the caller's choice comes back."""
    before, seen = torch.backends.cudnn.allow_tf32, []

    class Looks(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.cudnn.allow_tf32)
            return setup.network(x)

    attribute(Looks(), setup.spec, setup.placement, [OMEGA], method=SmoothGrad(n_samples=1), tf32=tf32)
    assert set(seen) == {tf32}
    assert torch.backends.cudnn.allow_tf32 == before
