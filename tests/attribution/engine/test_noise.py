"""Noise depends on (seed, draw, channel, voxel) alone, and is normal."""

import numpy as np
import pytest
import torch
from scipy import stats

from lesionwise.attribution.engine.noise import normal, random_subset, spread, uniform
from lesionwise.geometry.box import Box

SHAPE = (31, 29, 37)


def draw(box=None, *, seed=5, number=2, channels=2, shape=SHAPE, dtype=torch.float64):
    return normal(box or Box.whole(shape), shape, channels=channels, seed=seed, draw=number, dtype=dtype, device="cpu")


def test_a_part_is_the_part_of_the_whole():
    whole = draw()
    for box in (Box((3, 4, 5), (20, 9, 30)), Box((0, 0, 36), (31, 1, 37)), Box((7, 7, 7), (8, 8, 8))):
        assert torch.equal(draw(box), whole[(slice(None), *box.slices)])


def test_float32_rounds_the_same_values():
    assert (draw() - draw(dtype=torch.float32)).abs().max() < 1e-5


def test_every_seed_draw_and_channel_is_another():
    values = [draw(seed=s, number=n)[c] for s in (0, 1) for n in (0, 1) for c in (0, 1)]
    values += [draw(channels=5)[c] for c in (2, 3, 4)]
    flat = torch.stack([v.flatten() for v in values])
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 5 / np.sqrt(flat.shape[1])


def test_values_are_standard_normal_and_uncorrelated_in_space():
    x = draw(shape=(60, 60, 60), box=Box.whole((60, 60, 60)), channels=1)[0].numpy()
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-3
    assert np.abs(x).max() > 4.0
    for axis in range(3):
        ahead = np.roll(x, 1, axis)
        assert abs(np.corrcoef(x.ravel(), ahead.ravel())[0, 1]) < 5 / np.sqrt(x.size)
    assert stats.kurtosis(x.ravel()) == pytest.approx(0, abs=0.05)


def test_known_values_never_change():
    """A map made last year must come out the same today."""
    box = Box((1, 2, 3), (2, 3, 4))
    found = normal(box, (10, 10, 10), channels=2, seed=0, draw=0, dtype=torch.float64, device="cpu").flatten()
    assert found.tolist() == pytest.approx(KNOWN, abs=1e-12)


def _by_hand():
    """The same in Python integers."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    key = 0
    for part in (0, 0, 0):  # seed, draw, channel pair
        key = mix((key + part + golden) & mask)
    bits = mix((123 * golden + key) & mask)
    radius = np.sqrt(-2 * np.log(((bits >> 32) + 0.5) / 2**32))
    angle = 2 * np.pi * (bits & 0xFFFFFFFF) / 2**32
    return [radius * np.cos(angle), radius * np.sin(angle)]


KNOWN = _by_hand()


def test_spread_is_taken_in_the_head_per_channel():
    image = torch.zeros(2, 10, 10, 10)
    head = torch.zeros(10, 10, 10, dtype=torch.bool)
    head[2:8] = True
    image[0, head], image[1, head] = torch.linspace(-1, 1, 600), torch.linspace(0, 10, 600)
    image[:, 0] = 100.0
    assert spread(image, head, noise=0.05) == pytest.approx([0.05 * 0.99 * 2, 0.05 * 0.99 * 10], rel=1e-6)
    published = spread(image, head, noise=0.05, rule="published")
    assert published == pytest.approx([0.05 * 101.0] * 2)
    assert not spread(image, torch.zeros_like(head), noise=0.05).any()


def test_a_random_subset_does_not_depend_on_the_order():
    voxels = np.argwhere(np.ones((6, 5, 4), dtype=bool))
    chosen = {tuple(v) for v in random_subset(voxels, 20, seed=1)}
    again = {tuple(v) for v in random_subset(voxels[::-1].copy(), 20, seed=1)}
    assert chosen == again
    assert len(chosen) == 20
    assert chosen != {tuple(v) for v in random_subset(voxels, 20, seed=2)}


def test_uniform_deviates_fill_the_unit_interval():
    values = uniform(2000, seed=3, stream=1)
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert np.array_equal(values[:10], uniform(10, seed=3, stream=1))
