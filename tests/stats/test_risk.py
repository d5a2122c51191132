"""Promises to patients: the tests by hand, what is refused, and simulated cohorts in which they hold."""

import numpy as np
import pytest
from benchmarks.promise import violations, worlds
from scipy.stats import binom

from lesionwise.errors import InputError
from lesionwise.stats.risk import Promise, mean_loss_p, safest_last, tail_p


def test_p_values_by_hand():
    losses = np.array([0.0, 0.1, 0.2, 0.0])
    assert mean_loss_p(losses, most=0.3) == pytest.approx(0.7**4 / (0.9 * 0.8))
    assert mean_loss_p(np.array([0.0, 1.0]), most=0.3) == 1.0
    assert tail_p(losses, much=0.1, most=0.3) == pytest.approx(binom.cdf(1, 4, 0.3))  # 0.1 is not more than 0.1


@pytest.mark.parametrize("most", [0.05, 0.3])
def test_the_mean_test_is_wrong_at_most_as_often_as_it_says(most):
    """At the border of the hypothesis, for losses that are all or nothing, and for small ones."""
    rng = np.random.default_rng(0)
    for draw_fn in (
        lambda: (rng.random(60) < most).astype(float),
        lambda: np.minimum(rng.exponential(most, 60), 1.0),
        lambda: rng.uniform(0, 2 * most, 60),
    ):
        p = np.array([mean_loss_p(draw_fn(), most=most) for _ in range(2000)])
        assert (p <= 0.1).mean() <= 0.1 + 3 * np.sqrt(0.09 / 2000)


def test_a_cohort_too_small_for_the_promise_is_refused_and_offered_less():
    promise = Promise()
    assert promise.patients_needed == 45
    promise.check(45)
    with pytest.raises(InputError, match=r"Expected 45 patients .* found 20: .* --max-loss 0.11 --tail 0.11"):
        promise.check(20)
    offered = Promise.of(0.11, tail=0.11)
    offered.check(20)
    assert offered.kept_by(np.zeros(20))
    assert not promise.kept_by(np.zeros(44))
    assert promise.kept_by(np.zeros(45))
    assert promise.within_reach(45) == promise
    assert promise.within_reach(20).kept_by(np.zeros(20))


def test_what_no_number_of_patients_can_prove_is_refused():
    with pytest.raises(InputError, match="above 0"):
        Promise(mean_loss=0.0)


def test_the_smallest_threshold_that_keeps_the_promise():
    losses = {1.0: np.full(60, 0.5), 2.0: np.full(60, 0.02), 3.0: np.zeros(60)}
    found = safest_last(np.array([3.0, 1.0, 2.0]), lambda t: losses[t], Promise())
    assert found == (2.0 if Promise().kept_by(losses[2.0]) else 3.0)
    assert safest_last(np.array([1.0]), lambda t: losses[t], Promise()) is None


def test_the_promise_holds_in_simulated_cohorts_where_a_bootstrap_breaks_it():
    rng = np.random.default_rng(3)
    both = worlds(rng, patients=2500)
    for patients in (20, 45, 80):
        found = violations(patients, Promise().within_reach(patients), cohorts=300, rng=rng, worlds=both)
        assert found.certified <= 0.1 + 3 * np.sqrt(0.09 / 300), found
        assert found.bootstrapped > 0.15, found
