"""Integrated and Expected Gradients, occlusion and Shapley values: completeness and closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from lesionwise.attribution import (
    ExpectedGradients,
    InputTimesGradient,
    IntegratedGradients,
    Occlusion,
    Shapley,
    attribute,
)
from lesionwise.attribution.methods.path import shares_of

from ..conftest import OBLIQUE, OMEGA, place, random_scan, small_network, small_spec


def on_scan(found, placement):
    """The map on the whole scan."""
    full = np.zeros(tuple(placement.scan.shape))
    full[(slice(None), *found.box.slices)] = found.data
    return full


@pytest.mark.parametrize("affine", [None, OBLIQUE])
@pytest.mark.parametrize("target", ["log_odds", "probability"])
def test_integrated_gradients_are_complete(setup, affine, target):
    placement = place(setup.scan, affine=affine, spacing_mm=1.2)
    found = attribute(setup.network, setup.spec, placement, [OMEGA], method=IntegratedGradients(24), target=target)[0]
    facts = found.details
    assert facts["completeness_error"] < 1e-10
    assert sum(facts["contributions"]) == pytest.approx(found.target_mean - facts["target_without_lesion"], abs=1e-10)
    assert np.abs(found.data.sum(axis=(1, 2, 3)) - facts["contributions"]).max() < 1e-12


def test_contributions_of_a_linear_network_are_weight_times_difference(setup):
    network = nn.Conv3d(2, 2, 3, padding=1, bias=False).double().eval()
    baseline = setup.placement.input[0].clone()
    baseline[0, 7:10, 6:9, 5:8] = 0.3
    for method in (IntegratedGradients(3), ExpectedGradients(4, noise=0.0)):
        found = attribute(network, setup.spec, setup.placement, [OMEGA], method=method, baselines=[baseline])[0]
        changed = (setup.placement.input[0] - baseline != 0).numpy()
        full = np.zeros(changed.shape)
        full[(slice(None), *found.box.slices)] = found.data
        assert not full[~changed].any()
        assert found.details["completeness_error"] < 1e-13
        assert found.details["contributions"][1] == 0
        assert found.details["shares"] == pytest.approx([1.0, 0.0])


@pytest.mark.slow
def test_expected_gradients_are_complete_in_expectation(setup):
    found = attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=ExpectedGradients(400, noise=0.02))[0]
    difference = found.target_mean - found.details["target_without_lesion"]
    assert found.details["completeness_error"] < 0.05 * abs(difference)
    assert found.se is not None


@pytest.mark.parametrize(
    ("contributions", "difference", "expected"),
    [
        ([0.6, 0.2], 0.8, [0.75, 0.25]),
        ([-0.6, -0.2], -0.8, [0.75, 0.25]),
        ([0.6, -0.2], 0.4, None),
        ([0.6, 0.2], 0.7, None),
        ([0.0, 0.0], 0.0, None),
    ],
)
def test_a_share_is_given_only_where_it_means_something(contributions, difference, expected):
    found = shares_of(np.array(contributions), difference)
    assert found is None if expected is None else found == pytest.approx(expected)


THICK = OBLIQUE @ np.diag([0.7, 0.8, 3.1, 1.0])
"""An oblique scan with thick slices."""


@pytest.mark.parametrize("method", [IntegratedGradients(24), ExpectedGradients(3, noise=0.1)])
def test_voxels_that_do_not_differ_contribute_nothing_on_a_thick_oblique_scan(setup, method):
    """The dummy axiom voxel by voxel, and completeness: multiplied before the adjoint, a fifth of |IG| lay elsewhere."""
    placement = place(setup.scan, affine=THICK, spacing_mm=1.2)
    assert not placement.to_network.is_gather
    baseline = placement.scan.clone()
    baseline[0, 7:10, 6:9, 5:8] = 0.3
    found = attribute(setup.network, setup.spec, placement, [OMEGA], method=method, baselines=[baseline])[0]
    full = on_scan(found, placement)
    same = (placement.scan == baseline).numpy()
    assert not full[same if method.name == "ig" else np.broadcast_to(same.all(axis=0), same.shape)].any()
    assert np.abs(full[0, 7:10, 6:9, 5:8]).min() > 0
    if method.name == "ig":
        assert found.details["completeness_error"] < 1e-10


@pytest.mark.parametrize("affine", [None, THICK])
@pytest.mark.parametrize(
    "method", [IntegratedGradients(2), ExpectedGradients(2), InputTimesGradient(), Occlusion((2.0,)), Shapley((2.0,))]
)
def test_contributions_are_exactly_0_outside_the_head(setup, method, affine):
    placement = place(setup.scan, affine=affine, spacing_mm=1.2)
    omega = np.array([[1, 4, 6], [1, 3, 6], [2, 3, 6], [2, 4, 5]])  # beside the head's border
    found = attribute(setup.network, setup.spec, placement, [omega], method=method)[0]
    full = on_scan(found, placement)
    assert full.any()
    assert not full[:, ~placement.scan_head.numpy()].any()


@pytest.mark.parametrize("method", [Occlusion(edges_mm=(2.0, 5.0)), Shapley(edges_mm=(2.0, 5.0))])
def test_shells_are_in_mm_of_the_scans_own_voxels(setup, method):
    """By brute force from every voxel's centre to the lesion's voxels, which are blocks and not points."""
    placement = place(setup.scan, affine=THICK, spacing_mm=1.2)
    found = attribute(setup.network, setup.spec, placement, [OMEGA], method=method)[0]
    where = np.argwhere(placement.scan_head.numpy())
    sizes = np.array(placement.scan_sizes_mm)
    gaps = np.maximum(np.abs(where[:, None] - OMEGA[None]) - 0.5, 0.0) * sizes
    distance = np.sqrt((gaps**2).sum(axis=-1)).min(axis=1)
    own = {tuple(v) for v in OMEGA.tolist()}
    outside = np.array([tuple(v) not in own for v in where.tolist()])
    counts = {p["shell"]: p["voxels"] for p in found.details["players"]}
    assert counts["0-2 mm"] == int((outside & (distance <= 2.0)).sum())
    assert counts["2-5 mm"] == int(((distance > 2.0) & (distance <= 5.0)).sum())


class Products(nn.Module):
    """A voxel's logit is the product of its two channels plus the first: the channels interact."""

    def forward(self, x):
        y = x[:, :1] * x[:, 1:] + x[:, :1]
        return torch.cat([torch.zeros_like(y), y], dim=1)


def test_shapley_values_of_an_interaction_are_shared_and_complete(setup):
    method = {"edges_mm": (2.0, 4.0), "fill": "zero"}
    found = attribute(Products(), setup.spec, setup.placement, [OMEGA], method=Shapley(**method))[0]
    worth = {(p["channel"], p["shell"]): p["worth"] for p in found.details["players"]}
    i, j, k = OMEGA.T
    a, b = (setup.placement.input[0][c][i, j, k] for c in (0, 1))
    assert worth["FLAIR", "lesion"] == pytest.approx(float((a + a * b / 2).mean()), abs=1e-12)
    assert worth["T1w", "lesion"] == pytest.approx(float((a * b / 2).mean()), abs=1e-12)
    assert all(abs(v) < 1e-12 for (_, shell), v in worth.items() if shell != "lesion")
    assert abs(found.details["interaction"]) < 1e-12
    assert float(found.data.sum()) == pytest.approx(found.target_mean, abs=1e-12)
    occluded = attribute(Products(), setup.spec, setup.placement, [OMEGA], method=Occlusion(**method))[0]
    lost = {(p["channel"], p["shell"]): p["worth"] for p in occluded.details["players"]}
    assert lost["FLAIR", "lesion"] == pytest.approx(float((a + a * b).mean()), abs=1e-12)
    assert lost["T1w", "lesion"] == pytest.approx(float((a * b).mean()), abs=1e-12)


def test_shapley_is_complete_for_a_real_network():
    scan = random_scan()
    found = attribute(
        small_network(), small_spec(), place(scan), [OMEGA], method=Shapley(edges_mm=(2.0,), fill="blur")
    )[0]
    assert abs(found.details["interaction"]) < 1e-12
    assert found.details["evaluations"] == 2**4
