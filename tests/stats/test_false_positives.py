"""1000 null cohorts of 30 patients: the tests that we make claims with are wrong at most 7 % of the time at 5 %."""

import numpy as np
import pytest
from scipy import stats as reference

from lesionwise.stats import auc_interval, paired_difference, random_intercept_model, within_patient_test

COHORTS, PATIENTS = 1000, 30


def null_cohort(rng):
    """Lesions of two kinds without any difference on average.

    Patients differ in level, in how many lesions of each kind they have, and in the sign and size of a difference of
    their own whose mean over patients is zero.
    """
    n = rng.integers(4, 25, PATIENTS)
    member = np.repeat(np.arange(PATIENTS), n)
    share = rng.beta(0.7, 0.7, PATIENTS)
    kind = rng.random(len(member)) < share[member]
    level, own = rng.standard_normal(PATIENTS), 0.5 * rng.standard_normal(PATIENTS)
    y = level[member] + own[member] * kind + rng.standard_normal(len(member))
    return y, kind, member


@pytest.mark.slow
def test_false_positives_under_the_null():
    rng = np.random.default_rng(20261123)
    wrong = dict.fromkeys(["within_patient", "mixed_model", "auc_interval", "paired", "naive"], 0)
    for _ in range(COHORTS):
        y, kind, member = null_cohort(rng)
        a, b, pa, pb = y[kind], y[~kind], member[kind], member[~kind]
        sides = {"first_patients": pa, "second_patients": pb}
        wrong["within_patient"] += within_patient_test(a, b, **sides, rng=rng).p <= 0.05
        x = np.column_stack([np.ones(len(y)), kind.astype(float)])
        wrong["mixed_model"] += random_intercept_model(y, x, member, names=["constant", "kind"]).p[1] <= 0.05
        wrong["auc_interval"] += auc_interval(a, b, **sides).excludes(0.5)
        d = rng.standard_t(4, PATIENTS)
        wrong["paired"] += paired_difference(d, np.zeros(PATIENTS), patients=np.arange(PATIENTS), rng=rng)[1].p <= 0.05
        wrong["naive"] += reference.mannwhitneyu(a, b).pvalue <= 0.05
    rates = {name: count / COHORTS for name, count in wrong.items()}
    naive = rates.pop("naive")
    assert all(rate <= 0.07 for rate in rates.values()), rates
    assert all(rate >= 0.02 for rate in rates.values()), rates  # nor by never finding anything
    assert naive > 0.3, naive
