import numpy as np
import pytest
from scipy import stats as reference

from lesionwise.stats import cluster_bootstrap, mean_over_patients, profile_over_patients


def rng(seed=0):
    return np.random.default_rng(seed)


def test_with_one_row_per_patient_it_is_scipys_bootstrap():
    x = rng(3).exponential(size=40)
    for method, theirs in (("percentile", "percentile"), ("bca", "BCa")):
        ours = cluster_bootstrap(
            np.arange(40), lambda rows: float(x[rows].mean()), rng=rng(1), n_resamples=8000, method=method
        )
        expected = reference.bootstrap((x,), np.mean, n_resamples=8000, method=theirs, rng=rng(2)).confidence_interval
        assert ours.estimate == pytest.approx(x.mean())
        assert ours.low == pytest.approx(expected.low, abs=0.02)
        assert ours.high == pytest.approx(expected.high, abs=0.02)


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
