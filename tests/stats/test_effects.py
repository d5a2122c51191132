import numpy as np
import pytest
from scipy import stats as reference
from scipy.special import logit

from lesionwise.errors import InputError
from lesionwise.stats import auc, auc_interval, icc_agreement, icc_consistency

SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7.0]])


def test_auc_is_u_over_n1_n2_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 30).astype(float), rng.integers(1, 7, 20).astype(float)
    assert auc(a, b) == pytest.approx(reference.mannwhitneyu(a, b).statistic / 600)
    brute = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert auc(a, b) == pytest.approx(brute)
    assert np.isnan(auc(a, np.zeros(0)))


def test_auc_interval_by_hand():
    """The jackknife over patients on the log-odds, one AUC at a time."""
    rng = np.random.default_rng(1)
    pa, pb = rng.integers(0, 12, 60), rng.integers(0, 12, 50)
    shift = rng.standard_normal(12)
    a, b = shift[pa] + rng.standard_normal(60) + 0.5, shift[pb] + rng.standard_normal(50)
    got = auc_interval(a, b, first_patients=pa, second_patients=pb)
    left_out = np.array([logit(auc(a[pa != p], b[pb != p])) for p in range(12)])
    half = reference.t.ppf(0.975, 11) * np.sqrt(11 / 12 * np.sum((left_out - left_out.mean()) ** 2))
    assert got.estimate == auc(a, b)
    assert logit([got.low, got.high]) == pytest.approx(logit(auc(a, b)) + half * np.array([-1, 1]))


def test_auc_interval_is_delongs_for_independent_lesions():
    """One lesion per patient: the standard error behind the interval is DeLong's, from placement values."""
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal(150) + 0.8, rng.standard_normal(120)
    got = auc_interval(a, b, first_patients=np.arange(150), second_patients=150 + np.arange(120))
    va = np.array([np.mean(x > b) for x in a]).var(ddof=1) / 150
    vb = np.array([np.mean(a > y) for y in b]).var(ddof=1) / 120
    assert got.high - got.low == pytest.approx(2 * 1.96 * np.sqrt(va + vb), rel=0.1)


def test_complete_separation_is_not_certainty():
    got = auc_interval(
        np.arange(10.0) + 20, np.arange(10.0), first_patients=np.arange(10), second_patients=np.arange(10)
    )
    assert (got.estimate, got.high) == (1, 1)
    assert got.low == pytest.approx(0.025**0.1)


def test_a_group_held_by_one_patient_has_no_interval():
    got = auc_interval(np.arange(3.0), np.arange(9.0), first_patients=np.zeros(3), second_patients=np.arange(9))
    assert np.isnan(got.low)
    assert "one patient" in got.note


def test_icc_of_shrout_and_fleiss():
    """Published table: ICC(2,1) = 0.29, ICC(3,1) = 0.71."""
    assert round(icc_agreement(SHROUT_FLEISS), 2) == 0.29
    assert round(icc_consistency(SHROUT_FLEISS), 2) == 0.71


def test_icc_of_identical_and_of_shifted_measurements():
    x = np.arange(8.0)
    assert icc_agreement(np.stack([x, x], 1)) == pytest.approx(1)
    assert icc_consistency(np.stack([x, x + 5], 1)) == pytest.approx(1)
    assert icc_agreement(np.stack([x, x + 5], 1)) < 0.5
    with pytest.raises(InputError):
        icc_agreement(x[:, None])
