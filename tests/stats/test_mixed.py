import numpy as np
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM

from lesionwise.errors import InputError
from lesionwise.stats import random_intercept_model


def cohort(seed, *, patients=15, spread=1.0):
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(patients), rng.integers(2, 15, patients))
    x = np.column_stack([np.ones(len(member)), rng.random(len(member)) < 0.4, rng.standard_normal(len(member))])
    y = x @ [1.0, 0.5, -0.3] + spread * rng.standard_normal(patients)[member] + rng.standard_normal(len(member))
    return y, x.astype(float), member


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_statsmodels_mixedlm(seed):
    y, x, member = cohort(seed)
    ours = random_intercept_model(y, x, member, names=["constant", "group", "size"])
    theirs = MixedLM(y, x, groups=member).fit(reml=True)
    assert ours.effects == pytest.approx(np.asarray(theirs.fe_params), abs=1e-4)
    assert ours.model_se == pytest.approx(np.asarray(theirs.bse_fe), rel=5e-3)  # theirs is a numerical Hessian
    same = (member[:, None] == member[None, :]) * ours.variance_patient
    covariance = np.linalg.inv(x.T @ np.linalg.inv(same + np.eye(len(y)) * ours.variance_residual) @ x)
    assert ours.model_se == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-6)
    assert ours.variance_residual == pytest.approx(theirs.scale, rel=1e-3)
    assert ours.variance_patient == pytest.approx(float(theirs.cov_re[0, 0]), rel=2e-3)


def test_without_patient_effects_it_is_least_squares_with_clustered_errors():
    y, x, member = cohort(3, spread=0.0)
    y = y - np.array([y[member == p].mean() for p in range(15)])[member] + x @ [0, 0.5, 0]  # no variance between
    ours = random_intercept_model(y, x, member, names=["constant", "group", "size"])
    assert ours.effects == pytest.approx(np.linalg.lstsq(x, y, rcond=None)[0], abs=1e-3)
    assert ours.icc < 1e-3


def test_robust_errors_by_hand_for_one_row_per_patient():
    """One row per patient and a constant: the mean, and its usual standard error."""
    y = np.array([1.0, 2.0, 4.0, 8.0, 3.0, 5.0, 6.0])
    ours = random_intercept_model(y, np.ones((7, 1)), np.arange(7), names=["constant"])
    assert ours.effects[0] == pytest.approx(y.mean())
    assert ours.robust_se[0] == pytest.approx(y.std(ddof=1) / np.sqrt(7))


def test_joint_test_of_one_effect_is_its_own_test():
    y, x, member = cohort(1)
    ours = random_intercept_model(y, x, member, names=["constant", "group", "size"])
    assert ours.joint_p(["group"]) == pytest.approx(ours.p[1])
    assert ours.joint_p(["group", "size"]) < 1


def test_few_patients_give_effects_without_p():
    y, x, member = cohort(0, patients=4)
    ours = random_intercept_model(y, x, member, names=["constant", "group", "size"])
    assert np.isfinite(ours.effects).all()
    assert np.isnan(ours.p).all()
    assert np.isnan(ours.joint_p(["group"]))
    assert ours.note


def test_dependent_columns_are_a_sentence():
    with pytest.raises(InputError, match="independent"):
        random_intercept_model(np.arange(9.0), np.ones((9, 2)), np.arange(9), names=["a", "b"])
