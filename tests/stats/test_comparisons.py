import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests

from lesionwise.errors import InputError
from lesionwise.stats import (
    auc,
    holm,
    kruskal_wallis,
    mann_whitney_pairs,
    paired_difference,
    patient_pairs,
    sign_flip_test,
    within_patient_test,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_holm_is_statsmodels_holm_and_skips_nan():
    p = rng().random(9) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    with_gap = holm([0.01, np.nan, 0.04])
    assert with_gap[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(with_gap[1])


def test_pooled_tests_are_scipys():
    groups = {name: rng(i).standard_normal(20 + i) + 0.3 * i for i, name in enumerate(["TP", "FP", "FN"])}
    h, p = reference.kruskal(*groups.values())
    got = kruskal_wallis(groups)
    assert got.p == pytest.approx(p)
    assert got.effect == pytest.approx(h / (20 + 21 + 22 - 1))
    pairs = mann_whitney_pairs(groups)
    assert pairs["p"][1] == pytest.approx(reference.mannwhitneyu(groups["TP"], groups["FN"]).pvalue)
    assert pairs["p_holm"].tolist() == pytest.approx(multipletests(pairs["p"], method="holm")[1].tolist())


def test_pooled_tests_survive_missing_groups():
    groups = {"TP": np.array([1.0, 2.0]), "FP": np.zeros(0)}
    assert np.isnan(kruskal_wallis(groups).p)
    assert np.isnan(mann_whitney_pairs(groups)["p"][0])


def test_sign_flip_is_scipys_permutation_test_and_exact():
    d = rng(2).standard_normal(9) + 0.7
    expected = reference.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_test(d, rng=rng()).p == pytest.approx(expected)
    assert sign_flip_test(np.ones(6), rng=rng()).p == pytest.approx(2 / 64)


def test_sign_flip_by_drawing_agrees_with_the_t_test():
    d = rng(4).standard_normal(40) + 0.35
    assert sign_flip_test(d, rng=rng()).p == pytest.approx(reference.ttest_1samp(d, 0).pvalue, abs=0.01)


def test_five_patients_give_no_p():
    got = sign_flip_test(np.array([1.0, 2, 3, 4, 5, np.nan]), rng=rng())
    assert got.effect == 3
    assert np.isnan(got.p)
    assert "fewer than 6" in got.note


def test_within_patient_test_ignores_differences_between_patients():
    """Every lesion of `first` is higher within its patient, though overall the groups look alike."""
    patients = np.repeat(np.arange(8), 3)
    base = 100.0 * patients
    a, b = base + 1, base[:24:3].repeat(2) - 1
    got = within_patient_test(a, b, first_patients=patients, second_patients=np.repeat(np.arange(8), 2), rng=rng())
    assert got.effect == 1.0
    assert got.p == pytest.approx(2 / 2**8)
    assert auc(a, b) < 0.6


def test_patient_pairs_has_one_row_per_pair_and_each_patient_once():
    frame = pd.DataFrame(
        {
            "peak": rng(7).standard_normal(120),
            "outcome": np.tile(["TP", "FP", "TN"], 40),
            "subject": np.repeat(np.arange(10), 12),
        }
    )
    frame.loc[frame["outcome"] == "TP", "peak"] += 3.0
    table = patient_pairs(
        frame, value="peak", group="outcome", patient="subject", order=["TP", "FP", "FN", "TN"], rng=rng()
    )
    assert list(zip(table["first"], table["second"], strict=True)) == [("TP", "FP"), ("TP", "TN"), ("FP", "TN")]
    assert (table["patients"] == 10).all()
    assert table["p_holm"][0] < 0.01
    assert table["auc_low"][0] > 0.8
    assert table["p_holm"][2] > 0.05


def test_paired_difference_averages_repeated_scans():
    first = np.array([1.0, 3.0] + [2.0] * 6)
    interval, test = paired_difference(first, np.zeros(8), patients=["a", "a", "b", "c", "d", "e", "f", "g"], rng=rng())
    assert interval.estimate == 2.0
    assert interval.n_patients == test.n_patients == 7
    assert test.p == pytest.approx(2 / 2**7)
    with pytest.raises(InputError):
        paired_difference(first, np.zeros(3), patients=list("abc"), rng=rng())
