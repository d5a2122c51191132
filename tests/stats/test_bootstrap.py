import numpy as np
import pytest
from scipy import stats as reference

from lesionwise.stats import cluster_bootstrap, mean_interval, mean_over_patients, profile_over_patients
from lesionwise.stats.bootstrap import interval_from_draws


def rng(seed=0):
    return np.random.default_rng(seed)


def test_of_a_mean_the_general_interval_is_students():
    x = rng(3).standard_normal(9)
    got = cluster_bootstrap(np.arange(9), lambda rows: float(x[rows].mean()), rng=rng(1), n_resamples=20000)
    expected = reference.t.interval(0.95, 8, loc=x.mean(), scale=reference.sem(x))
    assert (got.low, got.high) == pytest.approx(expected, abs=0.02)


def test_the_mean_is_studentised_by_hand():
    """Every resample's distance from the mean in its own standard errors; quantiles turned round."""
    x = rng(3).exponential(size=12)
    got = mean_interval(x, rng=rng(1), n_resamples=4000)
    drawn = x[(rng(1).random((4000, 12)) * 12).astype(int)]
    low, high = np.quantile((drawn.mean(axis=1) - x.mean()) / reference.sem(drawn, axis=1), [0.025, 0.975])
    assert got.low == pytest.approx(x.mean() - high * reference.sem(x))
    assert got.high == pytest.approx(x.mean() - low * reference.sem(x))


def test_values_that_are_mostly_equal_get_students_interval():
    x = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    got = mean_interval(x, rng=rng(1))
    assert (got.low, got.high) == pytest.approx(reference.t.interval(0.95, 7, loc=x.mean(), scale=reference.sem(x)))


def test_a_share_without_an_exception_is_not_proved_by_few_patients():
    got = mean_interval(np.ones(10), rng=rng(1), bounds=(0.0, 1.0))
    assert (got.estimate, got.high) == (1.0, 1.0)
    assert got.low == pytest.approx(reference.binomtest(10, 10).proportion_ci(0.95).low)
    assert mean_interval(np.full(10, 3.0), rng=rng(1)).low == 3.0


def test_shares_stay_between_0_and_1():
    got = mean_interval(np.array([1.0, 1, 1, 1, 1, 0.4]), rng=rng(1), bounds=(0.0, 1.0))
    assert got.high == 1.0
    draws = rng(0).beta(30, 1, 500)
    odds = interval_from_draws(0.97, draws, n_patients=12, scale="logit")
    assert 0.0 < odds.low < 0.97 < odds.high < 1.0


def test_rows_of_a_patient_stay_together():
    """30 patients with 20 identical rows each are 30 values, not 600."""
    each = rng(0).standard_normal(30)
    rows = np.repeat(each, 20)
    wide = cluster_bootstrap(np.repeat(np.arange(30), 20), lambda r: float(rows[r].mean()), rng=rng(1))
    narrow = cluster_bootstrap(np.arange(600), lambda r: float(rows[r].mean()), rng=rng(1))
    plain = cluster_bootstrap(np.arange(30), lambda r: float(each[r].mean()), rng=rng(1))
    assert wide.high - wide.low == pytest.approx(plain.high - plain.low)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_fewer_than_six_patients_give_an_estimate_only():
    got = cluster_bootstrap(["a", "a", "b", "c"], lambda r: float(len(r)), rng=rng())
    assert got.estimate == 4
    assert np.isnan(got.low)
    assert "fewer than 6" in got.note
    assert not got.excludes(0)
    assert str(got) == "4"


def test_each_patient_counts_once():
    values = np.array([1.0] * 100 + [0.0] * 7)
    patients = ["big"] * 100 + list("abcdefg")
    assert mean_over_patients(values, patients, rng=rng()).estimate == pytest.approx(1 / 8)


def test_a_profile_is_each_bins_mean_with_gaps_left_out():
    values = np.array([[1.0, np.nan], [3.0, 4.0], [5.0, 8.0]])
    first, second = profile_over_patients(values, ["a", "a", "b"], rng=rng())
    assert (first.estimate, second.estimate) == (3.5, 6.0)
    many = rng(2).standard_normal((40, 3))
    bands = profile_over_patients(many, np.arange(40), rng=rng(1), n_resamples=4000)
    alone = mean_over_patients(many[:, 1].copy(), np.arange(40), rng=rng(5), n_resamples=4000)
    assert bands[1].low == pytest.approx(alone.low, abs=0.03)
