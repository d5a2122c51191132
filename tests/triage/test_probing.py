"""Asking the network again: what must hold for linear, even and uneven networks whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from triage_scans import CHANNELS, SHAPE, ball_scan

from lesionwise.segmenter import Segmenter, Spec
from lesionwise.triage.context import context_features
from lesionwise.triage.disagreement import disagreement_features
from lesionwise.triage.probing import Questions

WINDOW = (24, 24, 24)


class _Linear(nn.Module):
    """Log-odds = 2 FLAIR - T1w + `slope` * position along the first axis of what it is shown."""

    def __init__(self, slope=0.0, members=1):
        super().__init__()
        self.slope, self.members = slope, members

    def forward(self, x):
        ramp = torch.arange(x.shape[2], dtype=x.dtype)[None, None, :, None, None] * self.slope
        y = 2 * x[:, :1] - x[:, 1:] + ramp
        return torch.cat([part for n in range(self.members) for part in (torch.zeros_like(y), y + n)], dim=1)


def segmenter(network, **changes):
    spec = Spec("known", CHANNELS, WINDOW, orientation=None, spacing_mm=None)
    return Segmenter(network.eval(), replace(spec, **changes))


def questions(network, *, weights=None, **changes):
    scan, _ = ball_scan(weights=weights)
    found = Questions.of(scan, segmenter(network, **changes))
    assert found is not None
    return found


def test_a_linear_network_does_what_its_map_foresees():
    """M of a mean over the lesion: 2 / n and -1 / n inside, nothing outside."""
    _, ball = ball_scan()
    weights = np.stack([2.0 * ball, -1.0 * ball]) / ball.sum()
    found = context_features(questions(_Linear(), weights=weights), [1], channels=CHANNELS)[1]
    assert found["drop_removed"] > 3
    assert found["beyond_first_order"] == pytest.approx(0, abs=1e-4)
    both = found["drop_channel_FLAIR"] + found["drop_channel_T1w"]
    assert both == pytest.approx(found["drop_removed"], rel=1e-5)
    assert found["drop_isolated"] == pytest.approx(0, abs=1e-6)
    # The map's strongest voxels are the lesion itself.
    assert found["drop_salient"] == pytest.approx(found["drop_removed"], rel=0.35)


def test_a_map_that_points_elsewhere_is_found_out():
    beside = np.zeros((2, *SHAPE))
    beside[:, 28:33, 28:33, 28:33] = 1.0
    found = context_features(questions(_Linear(), weights=beside), [1], channels=CHANNELS)[1]
    assert found["drop_salient"] == pytest.approx(0, abs=1e-5)
    assert abs(found["beyond_first_order"]) > 1


def test_an_even_network_does_not_mind_mirrors_and_an_uneven_one_does():
    even = disagreement_features(questions(_Linear()), [1])[1]
    assert even["mirrored_drop"] == pytest.approx(0, abs=1e-5)
    assert even["mirrored_spread"] == pytest.approx(0, abs=1e-5)
    # The window's middle is at 11.5, the lesion is centred half a voxel beside it: mirrored along i it moves by 1.
    uneven = disagreement_features(questions(_Linear(slope=0.5)), [1])[1]
    assert uneven["mirrored_drop"] == pytest.approx(0.5 / 3, abs=1e-4)


def test_noise_of_a_linear_network_is_the_noise_it_was_given():
    one = questions(_Linear())
    found = disagreement_features(one, [1])[1]
    n = int(one.about(1).lesion().sum())
    expected = np.hypot(2 * one.noise_sd[0], one.noise_sd[1]) / np.sqrt(n)
    assert expected / 4 < found["noise_spread"] < 3 * expected
    assert found == pytest.approx(disagreement_features(one, [1])[1], nan_ok=True)


def test_certainty_leaves_no_disagreement():
    sure = disagreement_features(questions(_Linear()), [1])[1]
    assert sure["detected_share"] == 1
    assert 0.8 < sure["kept_share"] <= 1
    assert 0 <= sure["mutual_information"] < 0.05


def test_ensembles_and_dropout_speak_where_they_exist():
    none = disagreement_features(questions(_Linear()), [1])[1]
    assert np.isnan([none["member_spread"], none["dropout_spread"], none["dropout_drop"]]).all()
    three = disagreement_features(questions(_Linear(members=3), members=3), [1])[1]
    assert three["member_spread"] == pytest.approx(np.std([0, 1, 2]), abs=1e-6)
    network = nn.Sequential(nn.Dropout3d(0.5), _Linear()).eval()
    state = torch.random.get_rng_state()
    dropped = disagreement_features(questions(network), [1])[1]
    assert dropped["dropout_spread"] > 0.1
    assert not any(module.training for module in network.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


class _Sure(nn.Module):
    """An ensemble of two whose log-odds of lesion are `level` everywhere, `level` + 1 for the second."""

    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, x):
        y = 0 * x[:, :1] + self.level
        return torch.cat([torch.zeros_like(y), y, torch.zeros_like(y), y + 1], dim=1)


@pytest.mark.parametrize("level", [-2.0, 0.5, 30.0, -30.0])
def test_the_log_odds_of_an_ensemble_are_those_of_its_mean_probability_and_do_not_saturate(level):
    one = questions(_Sure(level), members=2)
    (reading,) = one.about(1).unchanged
    p, q = (np.mean([1 / (1 + np.exp(s * (level + n))) for n in (0, 1)]) for s in (-1, 1))
    np.testing.assert_allclose(reading.target, np.log(p) - np.log(q), rtol=1e-6)


def test_without_images_nothing_is_known():
    scan, _ = ball_scan()
    assert Questions.of(replace(scan, case=None), segmenter(_Linear())) is None
    for table in (context_features(None, [1], channels=CHANNELS), disagreement_features(None, [1])):
        assert np.isnan(list(table[1].values())).all()
