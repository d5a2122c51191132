"""Fitting: no patient leaks, nothing is found where nothing is, and the operating point keeps its promise."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lesionwise.errors import InputError
from lesionwise.stats import weighted_auc
from lesionwise.stats.bootstrap import cluster_bootstrap
from lesionwise.stats.risk import Promise
from lesionwise.triage.fitting import (
    Cohort,
    fit,
    nested_probabilities,
    operating_point,
    patient_folds,
    patient_shares,
)

NAMES = ["probability_max", "push_in_FLAIR", "volume_log", "elongation", "share_T1w", "entropy_mean"]


@pytest.fixture(scope="module")
def cohort(lesions):
    return Cohort.of(lesions, NAMES)


def auc_of(cohort, p):
    return weighted_auc(p, cohort.weights * (cohort.false == 0), cohort.weights * (cohort.false == 1))


def test_a_patient_is_wholly_on_one_side_of_every_fold(cohort):
    tested = []
    for rows, test in patient_folds(cohort.patients, cohort.false, folds=5, seed=0):
        assert not set(cohort.patients[rows]) & set(cohort.patients[test])
        tested.extend(test)
    assert sorted(tested) == list(range(len(cohort.false)))


@pytest.mark.parametrize("kind", ["l1_logistic", "boosting"])
@pytest.mark.slow
def test_a_signal_is_found_on_unseen_patients(cohort, kind):
    p, called = nested_probabilities(cohort, kind=kind)
    assert auc_of(cohort, p) > 0.8
    assert called[cohort.false == 1].mean() > 3 * called[cohort.false == 0].mean()


@pytest.mark.parametrize("kind", ["l1_logistic", "boosting"])
@pytest.mark.slow
def test_shuffled_truth_is_not_predicted(cohort, kind):
    shuffled = replace(cohort, false=np.random.default_rng(5).permutation(cohort.false))
    p, _ = nested_probabilities(shuffled, kind=kind)
    w_true, w_false = (shuffled.false == 0).astype(float), (shuffled.false == 1).astype(float)
    interval = cluster_bootstrap(
        shuffled.patients,
        lambda rows: weighted_auc(p[rows], w_true[rows], w_false[rows]),
        rng=np.random.default_rng(0),
        n_resamples=500,
    )
    assert not interval.excludes(0.5)


@pytest.mark.parametrize("kind", ["l1_logistic", "boosting"])
@pytest.mark.slow
def test_recognising_the_patient_does_not_help(kind):
    """Outcome and one feature are the patient's own, and have nothing to do with each other: lesions split without
    regard to patients would be predicted perfectly by trees that learn which patient is which."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f"{n:02d}" for n in range(24)], 12)
    code = np.repeat(rng.permutation(24).astype(float), 12) + rng.normal(scale=0.01, size=len(patients))
    false = np.repeat((rng.permutation(24) < 12).astype(np.int64), 12)
    table = np.stack([code, rng.normal(size=len(patients))], axis=1)
    cohort = Cohort(table, ("code", "noise"), false, patients, np.ones(len(patients)))
    p, _ = nested_probabilities(cohort, kind=kind)
    assert auc_of(cohort, p) < 0.7


def test_judged_patients_do_not_touch_the_preparation(cohort):
    """What one held-out patient's features are must not change the judgement of another in the same fold."""
    _, test = next(patient_folds(cohort.patients, cohort.false, folds=5, seed=0))
    strange = cohort.patients == cohort.patients[test[0]]
    table = cohort.table.copy()
    table[strange] = table[strange] * 1000 + 5000
    p, _ = nested_probabilities(cohort)
    q, _ = nested_probabilities(replace(cohort, table=table))
    others = [row for row in test if not strange[row]]
    assert len(others) > 10
    np.testing.assert_array_equal(p[others], q[others])
    assert not np.array_equal(p[strange], q[strange])


@pytest.mark.parametrize("max_loss", [0.15, 0.3])
def test_the_operating_point_keeps_its_promise_on_the_patients_it_was_proved_on(cohort, max_loss):
    fitted = fit(cohort, promise=Promise.of(max_loss, tail=max_loss))
    called = fitted.out_of_fold >= fitted.threshold
    share = patient_shares(cohort.weights, cohort.false, cohort.patients)
    loses = np.array([share[called & (cohort.patients == name)].sum() for name in np.unique(cohort.patients)])
    assert loses.mean() < max_loss
    assert (loses > 2 * max_loss).mean() < max_loss
    assert fitted.promise.kept_by(loses)
    assert called[cohort.false == 1].mean() > 0


def test_twenty_patients_cannot_prove_the_usual_promise(cohort):
    with pytest.raises(InputError, match=r"Expected 45 patients or more .* found 20"):
        fit(cohort, promise=Promise())
    assert fit(cohort).promise == Promise().within_reach(20)


def test_larger_than_every_false_lesion_is_never_called_false(cohort):
    """Verdicts stop at the largest false lesion that was fitted on, inside every fold too."""
    volumes = np.full(len(cohort.false), 100.0)
    volumes[cohort.false == 0] = 1000.0
    sized = replace(cohort, volumes=volumes)
    fitted = fit(sized)
    assert fitted.judged_mm3 == (100.0, 100.0)
    _, called = nested_probabilities(sized)
    assert not called[cohort.false == 0].any()
    assert called[cohort.false == 1].any()
    # What cannot be lost frees the threshold: all false lesions may be called.
    assert fitted.threshold < fit(cohort).threshold


def test_the_operating_point_by_hand():
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    false = np.array([0, 0, 0, 1, 0, 1, 1])
    one = np.ones(7)
    assert operating_point(p, false, weights=one, max_loss=0.0) == 0.6
    assert operating_point(p, false, weights=one, max_loss=0.25) == 0.4
    heavy = np.where(p == 0.5, 10.0, 1.0)
    assert operating_point(p, false, weights=heavy, max_loss=0.25) == 0.6
    assert operating_point(p, 1 - false, weights=one, max_loss=0.0) > 0.7


def test_a_patient_with_few_lesions_counts_as_much_as_one_with_many():
    """Shares add up to 1 per patient, and to 0 where a patient has no true lesion."""
    false = np.array([0, 0, 0, 1, 0, 1])
    patients = np.array(["a", "a", "a", "a", "b", "c"])
    shares = patient_shares(np.array([2.0, 1.0, 1.0, 1.0, 5.0, 1.0]), false, patients)
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25, 0.0, 1.0, 0.0])


def test_the_promise_holds_for_patients_not_for_lesions():
    """A patient with 300 sure lesions must not pay for nine with ten doubtful ones each."""
    rng = np.random.default_rng(0)
    parts = []
    for patient, count in enumerate([300] * 3 + [10] * 27):
        false = (rng.uniform(size=count) < 0.3).astype(np.int64)
        doubt = 0.0 if count > 100 else 1.0
        x = rng.normal(size=count) + 3.0 * false + 1.5 * doubt * (1 - false)
        parts.append((x, false, np.repeat(f"{patient:02d}", count)))
    x, false, patients = (np.concatenate(part) for part in zip(*parts, strict=True))
    fitted = fit(Cohort(x[:, None], ("x",), false, patients, np.ones(len(x))), promise=Promise(0.1, 0.3, 0.1))
    lost = fitted.out_of_fold >= fitted.threshold
    share = patient_shares(np.ones(len(x)), false, patients)
    assert share[lost].sum() / share.sum() <= 0.1
    pooled = operating_point(fitted.out_of_fold, false, weights=np.ones(len(x)), max_loss=0.1)
    assert share[fitted.out_of_fold >= pooled].sum() / share.sum() > 0.1


def test_few_patients_lose_much():
    """One patient in four is doubtful: the mean alone would let each of these lose much more than twice what is allowed."""
    rng = np.random.default_rng(1)
    parts = []
    for patient in range(40):
        false = (rng.uniform(size=30) < 0.3).astype(np.int64)
        x = rng.normal(size=30) + 4.0 * false + (2.5 if patient % 4 == 0 else 0.0) * (1 - false)
        parts.append((x, false, np.repeat(f"{patient:02d}", 30)))
    x, false, patients = (np.concatenate(part) for part in zip(*parts, strict=True))
    fitted = fit(Cohort(x[:, None], ("x",), false, patients, np.ones(len(x))), promise=Promise(0.06, 0.1, 0.06))
    share = patient_shares(np.ones(len(x)), false, patients)

    def much(threshold):
        called = fitted.out_of_fold >= threshold
        return np.mean([share[called & (patients == name)].sum() > 0.1 for name in np.unique(patients)])

    mean_alone = operating_point(fitted.out_of_fold, false, weights=share, max_loss=0.05)
    assert much(mean_alone) > 0.15
    assert much(fitted.threshold) <= 0.05


def test_probabilities_are_calibrated(cohort):
    fitted = fit(cohort)
    p = fitted.out_of_fold
    assert p.mean() == pytest.approx(cohort.false.mean(), abs=0.03)
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        bin_of = (p >= low) & (p < high)
        assert cohort.false[bin_of].mean() == pytest.approx(p[bin_of].mean(), abs=0.15)


def test_weights_count_as_copies(lesions):
    """A lesion of weight 2 is worth two lesions."""
    doubled = Cohort.of(lesions.assign(weight=np.where(lesions["outcome"] == "FP", 2.0, 1.0)), NAMES)
    twice = Cohort.of(pd.concat([lesions, lesions[lesions["outcome"] == "FP"]], ignore_index=True), NAMES)
    assert fit(doubled).out_of_fold.mean() < fit(twice).out_of_fold.mean()  # more rows of FP in the plain mean
    p, q = fit(doubled), fit(twice)
    rows = np.arange(len(lesions))
    assert np.corrcoef(p.out_of_fold, q.out_of_fold[rows])[0, 1] > 0.97


def test_cohorts_that_cannot_be_fitted_are_refused(lesions):
    with pytest.raises(InputError, match="at least 4 patients, found 2"):
        Cohort.of(lesions[lesions["subject"].isin(["00", "01"])], NAMES)
    with pytest.raises(InputError, match=r"all \d+ are true"):
        Cohort.of(lesions[lesions["outcome"] == "TP"], NAMES)
    with pytest.raises(InputError, match="one of l1_logistic, boosting"):
        fit(Cohort.of(lesions, NAMES), kind="forest")
