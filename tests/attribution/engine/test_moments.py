"""Running moments against NumPy, and peaks without the bias of maximisation."""

import numpy as np
import pytest
import torch

from lesionwise.attribution.engine.extremes import Extremes
from lesionwise.attribution.engine.moments import Moments


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
    for half, own in zip(moments.halves, (draws[0::2], draws[1::2]), strict=True):
        assert np.allclose(half.mean.numpy(), own.mean(axis=0), atol=1e-13)
        if len(own) > 1:
            expected = own.var(axis=0, ddof=1) / len(own)
            assert np.allclose(half.variance_of_mean.numpy(), expected, atol=1e-13)


def test_antithetic_pairs_are_the_units():
    draws = np.random.default_rng(1).normal(size=(12, 1, 2, 2, 2))
    pairs = draws.reshape(6, 2, 1, 2, 2, 2).mean(axis=1)
    moments = filled(draws, antithetic=True)
    assert moments.units == 6
    assert np.allclose(moments.mean.numpy(), pairs.mean(axis=0), atol=1e-14)
    assert np.allclose(moments.variance_of_mean.sqrt().numpy(), pairs.std(axis=0, ddof=1) / np.sqrt(6), atol=1e-14)
    assert np.allclose(moments.halves[1].mean.numpy(), pairs[1::2].mean(axis=0), atol=1e-14)


def test_one_draw_has_no_standard_error():
    assert filled(np.ones((1, 1, 1, 1, 1))).variance_of_mean is None


def peaks_of(draws):
    halves = filled(draws).halves
    return Extremes.split([h.mean.numpy() for h in halves], [h.variance_of_mean.numpy() for h in halves])


def test_split_draws_remove_the_bias_of_the_peak():
    """A flat map with noise has peak 0; the maximum of its mean does not know that."""
    rng = np.random.default_rng(2)
    found, naive, errors = [], [], []
    for _ in range(400):
        draws = rng.normal(size=(10, 1, 4, 5, 10))
        extremes = peaks_of(draws)
        found.append(extremes.peak[0])
        errors.append(extremes.peak_se[0])
        naive.append(draws.mean(axis=0).max())
    standard_error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * standard_error
    assert np.mean(naive) > 0.7
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(found), rel=0.15)


def test_a_clear_peak_is_found_with_its_value_and_error():
    rng = np.random.default_rng(3)
    truth = np.zeros((1, 4, 5, 10))
    truth[0, 1, 2, 3], truth[0, 3, 3, 3] = 5.0, -7.0
    found = [peaks_of(truth + rng.normal(size=(20, 1, 4, 5, 10))) for _ in range(200)]
    assert np.mean([f.peak for f in found]) == pytest.approx(5.0, abs=0.08)
    assert np.mean([f.trough for f in found]) == pytest.approx(-7.0, abs=0.08)
    assert np.mean([f.peak_se for f in found]) == pytest.approx(1 / np.sqrt(20), rel=0.1)
