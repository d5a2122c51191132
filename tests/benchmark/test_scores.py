"""Scores of a map against a known answer: the right map wins, wrong ones lose in every score."""

import numpy as np
import pytest

from lesionwise.benchmark.scores import SCORES, Cell, KnownAnswer, scores_of

SHAPE = (20, 20, 20)


def ball(centre, radius):
    grid = np.indices(SHAPE)
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


LESION, TAG, OTHER = ball((6, 10, 10), 3), ball((12, 10, 10), 2), ball((15, 15, 4), 2)


@pytest.fixture(scope="module")
def answer():
    """The cause is a tag on channel 1; the lesion on channel 0 is rightly answered to as well."""
    near = ball((9, 10, 10), 8) & ~OTHER
    elsewhere = near & ~LESION & ~TAG
    wrong = [Cell("tag", 0, TAG), Cell("lesion", 1, LESION), Cell("rest", 0, elsewhere), Cell("rest", 1, elsewhere)]
    return KnownAnswer((Cell("tag", 1, TAG, 1),), (Cell("lesion", 0, LESION),), tuple(wrong), near, OTHER)


def true_map(rng):
    m = 0.01 * rng.standard_normal((2, *SHAPE))
    m[0][LESION] += 1.0
    m[1][TAG] += 0.5
    return m


def wrong_maps(rng):
    m = true_map(rng)
    other = np.zeros_like(m)
    other[:, OTHER] = 1.0
    return {"shuffled": rng.permutation(m.ravel()).reshape(m.shape), "reversed": -m, "other lesion": other}


def test_the_true_map_is_right_in_every_score(answer):
    rng = np.random.default_rng(0)
    found = scores_of(true_map(rng), answer, rng)
    assert set(found) == set(SCORES)
    assert found["named"] == 1.0
    assert min(found.values()) > 0.9


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("wrong", ["shuffled", "reversed", "other lesion"])
def test_a_wrong_map_loses_in_every_score(answer, score, wrong):
    """Over thirty draws: far below the true map, and no better than chance where chance is known."""
    true, lost = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        true.append(scores_of(true_map(rng), answer, rng)[score])
        lost.append(scores_of(wrong_maps(rng)[wrong], answer, rng)[score])
    assert np.mean(lost) < 0.65
    assert np.mean(true) - np.mean(lost) > 0.3


def test_a_map_in_the_wrong_channel_or_place_is_not_named(answer):
    rng = np.random.default_rng(1)
    swapped = true_map(rng)[::-1].copy()
    assert scores_of(swapped, answer, rng)["named"] == 0.0
    assert scores_of(swapped, answer, rng)["channel"] < 0.5
    beside = np.roll(true_map(rng), 5, axis=1)
    assert scores_of(beside, answer, rng)["place"] < 0.6


def test_two_causes_must_both_be_named():
    causes = (Cell("lesion", 0, LESION, 1), Cell("lesion", 1, LESION, -1))
    answer = KnownAnswer(causes, (), (Cell("tag", 0, TAG), Cell("tag", 1, TAG)), ball((9, 10, 10), 8), OTHER)
    m = np.zeros((2, *SHAPE))
    m[0][LESION], m[1][LESION] = 1.0, -0.5
    rng = np.random.default_rng(0)
    assert scores_of(m, answer, rng)["named"] == 1.0
    assert scores_of(m, answer, rng)["channel"] == pytest.approx(2 * 0.5 / 1.5)
    m[1][LESION] = 0.5
    assert scores_of(m, answer, rng)["named"] == 0.0
    assert scores_of(m, answer, rng)["channel"] == 0.0


def test_a_map_of_one_channel_has_no_channel_to_name(answer):
    rng = np.random.default_rng(0)
    m = np.zeros((1, *SHAPE))
    m[0][TAG] = 1.0
    found = scores_of(m, answer, rng)
    assert np.isnan(found["named"])
    assert np.isnan(found["channel"])
    assert found["place"] > 0.9
