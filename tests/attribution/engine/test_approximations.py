"""Approximations are named, and exact where they should be."""

import numpy as np
import pytest

from lesionwise.attribution import Gradient, SmoothGrad, attribute, plan_attribution
from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.windows import WindowGrid

from ..conftest import OBLIQUE, OMEGA, place, random_scan, small_network, small_spec
from ..methods.test_gradient import full, value_at

LARGE = np.stack(np.meshgrid(np.arange(3, 14), [6], [6], indexing="ij"), axis=-1).reshape(-1, 3)


def maps(setup, method, sets=(OMEGA,), **options):
    return attribute(setup.network, setup.spec, setup.placement, list(sets), method=method, **options)


def chunked(setup, size):
    """max over sums of `size` voxels, one voxel after another by the exact engine."""
    omega = np.unique(OMEGA, axis=0)
    alone = [full(maps(setup, Gradient(), [v[None]])[0], setup.scan.shape[1:]) for v in omega]
    sums = np.stack([np.sum(alone[k : k + size], axis=0) for k in range(0, len(alone), size)])
    return np.take_along_axis(sums, np.abs(sums).argmax(axis=0)[None], axis=0)[0]


@pytest.mark.parametrize("size", [1, 2, 512])
def test_chunked_max_is_the_largest_of_sums(setup, size):
    method = SmoothGrad(n_samples=1, noise=0.0, reduce="max", max_voxels=None, chunk=size)
    found = maps(setup, method)[0]
    assert np.abs(full(found, setup.scan.shape[1:]) - chunked(setup, size)).max() < 1e-13
    assert found.details.get("approximation") == (["chunked-max"] if size > 1 else None)
    plan = plan_attribution(setup.network, setup.spec, setup.placement, [OMEGA], method=method)
    alone = SmoothGrad(n_samples=1, reduce="max", max_voxels=1)
    once = plan_attribution(setup.network, setup.spec, setup.placement, [OMEGA], method=alone).backward_passes
    assert plan.backward_passes == -(-len(OMEGA) // size) * once


def test_chunks_of_one_are_the_exact_max_on_a_turned_grid():
    scan = random_scan()
    placement = place(scan, affine=OBLIQUE, spacing_mm=1.2)
    exact, single, wide = (
        attribute(small_network(), small_spec(), placement, [OMEGA], method=SmoothGrad(2, reduce="max", **options))[0]
        for options in ({}, {"chunk": 1}, {"chunk": 2})
    )
    assert np.array_equal(exact.data, single.data)
    assert np.abs(full(wide, scan.shape[1:]) - full(exact, scan.shape[1:])).max() > 1e-6


@pytest.mark.parametrize("bad", [{"chunk": 0, "reduce": "max"}, {"chunk": 2, "reduce": "mean"}])
def test_a_chunk_belongs_to_max(bad):
    with pytest.raises(InputError, match="chunk"):
        SmoothGrad(**bad)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_a_lesions_window_is_exact_where_one_window_covers_the_scan(reduce):
    scan, spec = random_scan((10, 9, 8)), small_spec()
    method = SmoothGrad(n_samples=2, reduce=reduce)
    exact, near = (
        attribute(small_network(), spec, place(scan), [OMEGA[:4] - 1], method=method, lesion_window=own)[0]
        for own in (False, True)
    )
    assert np.abs(full(near, scan.shape[1:]) - full(exact, scan.shape[1:])).max() < 1e-14
    assert near.details["approximation"] == ["lesion-window"]
    assert "approximation" not in exact.details


def test_a_lesions_window_is_a_network_before_that_window_alone(setup):
    """Autograd through one window around the lesion, cut out by hand."""
    omega = OMEGA[:4]
    found = maps(setup, Gradient(), [OMEGA, omega], lesion_window=True)
    start = (4, 3, 3)  # (8 + 10 - 10) // 2, (7 + 9 - 9) // 2, (6 + 8 - 8) // 2
    window = Box(start, (14, 12, 11))
    part = setup.scan[(slice(None), *window.slices)].clone().requires_grad_(True)
    logits = setup.network(part[None])[0]
    i, j, k = (omega - start).T
    (logits[1] - logits[0])[i, j, k].mean().backward()
    expected = np.zeros(setup.scan.shape)
    scale = setup.placement.scale.reshape(-1, 1, 1, 1)
    expected[(slice(None), *window.slices)] = (part.grad * scale).numpy()
    assert np.abs(full(found[1], setup.scan.shape[1:]) - expected).max() < 1e-13
    fused = full(maps(setup, Gradient(), [omega])[0], setup.scan.shape[1:])
    assert np.abs(fused - expected).max() > 1e-4


def test_a_lesion_larger_than_the_window_keeps_the_fused_ones(setup):
    exact = maps(setup, Gradient(), [LARGE])[0]
    near = maps(setup, Gradient(), [LARGE], lesion_window=True)[0]
    assert np.array_equal(near.data, exact.data)
    assert "approximation" not in near.details
    fused = value_at(setup.network, setup.spec, setup.placement, setup.scan, LARGE, "log_odds").detach()
    assert near.target_mean == pytest.approx(float(fused.mean()), abs=1e-12)


def test_both_are_named(setup):
    found = maps(setup, SmoothGrad(n_samples=1, reduce="max", chunk=2), lesion_window=True)[0]
    assert found.details["approximation"] == ["chunked-max", "lesion-window"]
    plan = plan_attribution(
        setup.network, setup.spec, setup.placement, [OMEGA, OMEGA[:1]], method=Gradient(), lesion_window=True
    )
    assert plan.windows == 2


def test_windows_around_regions_lie_within_the_volume():
    grid = WindowGrid.of(small_spec(), (17, 14, 13))
    wider = grid.with_windows_around([Box((0, 0, 0), (1, 1, 1)), Box((16, 13, 12), (17, 14, 13))])
    assert wider.boxes[-2:] == (Box((0, 0, 0), (10, 9, 8)), Box((7, 5, 5), (17, 14, 13)))
    assert np.array_equal(wider.total_importance, grid.total_importance)
    assert (wider.weight(len(grid.boxes)) == 1).all()
