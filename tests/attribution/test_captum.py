"""InstanceTarget as the forward function of Captum's attributions, where both compute the same thing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lesionwise.attribution import (
    Gradient,
    InstanceTarget,
    IntegratedGradients,
    SmoothGrad,
    attribute,
)

from .conftest import OMEGA, small_spec
from .methods.test_gradient import full

captum = pytest.importorskip("captum.attr")


@pytest.fixture
def function(setup):
    return InstanceTarget(setup.network, setup.spec, setup.placement, OMEGA)


def on_scan(setup, gradient):
    return setup.placement.pull_back(gradient[0]).detach().numpy()


def test_saliency(setup, function):
    x = setup.placement.input.clone().requires_grad_(True)
    theirs = captum.Saliency(function).attribute(x, abs=False)
    ours = attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=Gradient())[0]
    assert np.abs(full(ours, setup.scan.shape[1:]) - on_scan(setup, theirs)).max() < 1e-14


def test_integrated_gradients(setup, function):
    baseline = setup.placement.input[0].clone()
    baseline[:, 6:11, 5:9, 4:8] = 0.1
    # Captum keeps its quadrature nodes in float32
    theirs = captum.IntegratedGradients(function).attribute(
        setup.placement.input, baseline[None], n_steps=12, method="gausslegendre", internal_batch_size=1
    )
    ours = attribute(
        setup.network, setup.spec, setup.placement, [OMEGA], method=IntegratedGradients(12), baselines=[baseline]
    )[0]
    assert np.abs(full(ours, setup.scan.shape[1:]) - theirs[0].numpy()).max() < 1e-6 * float(theirs.abs().max())


def test_noise_tunnel(setup, function):
    """Same formula, independent noise: they agree within their standard errors."""
    sigma = 0.1
    torch.manual_seed(0)
    theirs = captum.NoiseTunnel(captum.Saliency(function)).attribute(
        setup.placement.input, nt_type="smoothgrad", nt_samples=60, nt_samples_batch_size=20, stdevs=sigma, abs=False
    )
    head = torch.ones_like(setup.placement.head)
    image = setup.placement.input[0]
    placed = replace(setup.placement, head=head)
    extent = float(image[0].max() - image[0].min())
    method = SmoothGrad(n_samples=60, noise=sigma / extent, noise_rule="published", antithetic=False)
    ours = attribute(setup.network, setup.spec, placed, [OMEGA], method=method)[0]
    assert ours.details["sigma"] == pytest.approx([sigma, sigma])
    difference = ours.data - on_scan(setup, theirs)[(slice(None), *ours.box.slices)]
    strong = ours.se > np.percentile(ours.se, 50)
    z = difference[strong] / (np.sqrt(2) * ours.se[strong])
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1.0, abs=0.35)


def test_a_batch_gives_one_value_per_scan(setup, function):
    x = torch.cat([setup.placement.input, setup.placement.input * 2])
    values = function(x)
    assert values.shape == (2,)
    each = InstanceTarget(setup.network, small_spec(), setup.placement, OMEGA, reduce="none")(x)
    assert each.shape == (2, len(OMEGA))
    assert torch.allclose(each.mean(dim=1), values)
