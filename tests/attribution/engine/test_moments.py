"""Running moments against NumPy, and peaks without the bias of maximisation."""

import numpy as np
import pytest
import torch
from benchmarks.peaks import simulated

from lesionwise.attribution.engine.extremes import Extremes
from lesionwise.attribution.engine.moments import GROUPS, Moments, maps_held


def filled(draws, antithetic=False):
    moments = Moments(antithetic)
    for draw in draws:
        moments.add(torch.from_numpy(draw.copy()))
    return moments


@pytest.mark.parametrize("count", [2, 3, 8, 51])
def test_mean_and_standard_error_equal_numpys(count):
    draws = np.random.default_rng(0).normal(3.0, 2.0, (count, 2, 3, 4, 5))
    moments = filled(draws)
    assert np.allclose(moments.mean.numpy(), draws.mean(axis=0), atol=1e-13)
    assert np.allclose(moments.variance_of_mean.sqrt().numpy(), draws.std(axis=0, ddof=1) / np.sqrt(count), atol=1e-13)
    assert sum(moments.group_counts) == count
    for group in range(len(moments.group_counts)):
        assert np.allclose(moments.group_mean(group).numpy(), draws[group::GROUPS].mean(axis=0), atol=1e-13)


def test_antithetic_pairs_are_the_units():
    draws = np.random.default_rng(1).normal(size=(12, 1, 2, 2, 2))
    pairs = draws.reshape(6, 2, 1, 2, 2, 2).mean(axis=1)
    moments = filled(draws, antithetic=True)
    assert moments.units == 6
    assert np.allclose(moments.mean.numpy(), pairs.mean(axis=0), atol=1e-14)
    assert np.allclose(moments.variance_of_mean.sqrt().numpy(), pairs.std(axis=0, ddof=1) / np.sqrt(6), atol=1e-14)
    assert np.allclose(moments.group_mean(0).numpy(), pairs[0::GROUPS].mean(axis=0), atol=1e-14)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_maps_that_a_plan_counts_are_those_held(antithetic):
    """Beside the draw and a copy of it; never more, and as many where there are enough antithetic pairs for all groups."""
    for count in (1, 2, 3, 4, 8, 12, 50):
        moments, most = Moments(antithetic), 0
        for _ in range(count):
            moments.add(torch.ones(1, 2, 2, 2))
            held = [moments._mean, moments._squares, moments._waiting, *moments._sums]
            most = max(most, sum(one is not None for one in held))
        spare = maps_held(count) - 2 - most
        assert spare >= 0
        if antithetic and count >= 2 * GROUPS + 2:
            assert spare == 0


def test_one_draw_has_no_standard_error():
    assert filled(np.ones((1, 1, 1, 1, 1))).variance_of_mean is None


def peaks_of(draws):
    moments = filled(draws)
    counts = moments.group_counts
    return Extremes.of_groups([moments.group_mean(group).numpy() for group in range(len(counts))], counts)


def test_the_peak_by_hand():
    """Five draws of three voxels: found where the other four are largest, read in the fifth."""
    draws = np.array([[5.0, 1, 0], [4, 3, 0], [6, 2, 1], [0, 7, 0], [5, 2, 0]])
    found = peaks_of(draws.reshape(5, 1, 1, 1, 3))
    read = np.array([5.0, 4, 6, 0, 5])  # always the first voxel
    assert found.peak == pytest.approx([read.mean()])
    assert found.freedom == 4
    assert found.peak_se == pytest.approx([read.std(ddof=1) / np.sqrt(5)])  # the plain peak is the same: no gap


def test_the_uncertainty_of_the_place_is_half_the_gap_to_the_plain_peak():
    draws = np.array([[9.0, 0], [0, 9], [9, 0], [0, 9]])
    found = peaks_of(draws.reshape(4, 1, 1, 1, 2))
    assert found.peak == pytest.approx([0.0])  # the others always point at where this draw has nothing
    assert found.peak_se == pytest.approx([4.5 / 2])


def test_few_draws_have_a_value_without_an_error():
    assert np.isnan(peaks_of(np.ones((3, 1, 1, 1, 2))).peak_se[0])
    assert np.isnan(peaks_of(np.ones((1, 1, 1, 1, 2))).peak_se[0])


def test_a_map_of_noise_has_no_peak():
    """A flat map with noise has peak 0; the maximum of its mean does not know that."""
    rng = np.random.default_rng(2)
    found, naive = [], []
    for _ in range(300):
        draws = rng.normal(size=(10, 1, 4, 5, 10))
        found.append(peaks_of(draws).peak[0])
        naive.append(draws.mean(axis=0).max())
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    assert np.mean(naive) > 0.7


@pytest.mark.parametrize(("draws", "ratio"), [(8, 1.0), (8, 4.0), (16, 2.0), (50, 1.0), (50, 4.0)])
def test_intervals_of_the_peak_cover_it(draws, ratio):
    """Binomial error .017; `python -m benchmarks.peaks` makes the table of docs/method.md."""
    found = simulated(draws, ratio, maps=150, rng=np.random.default_rng(draws))
    assert 0.88 <= found.coverage <= 1.0
    assert found.bias <= 0.05
