"""Choosing: only the fitting cohort counts, the rule is followed to the letter, and nothing is found where nothing is."""

import json

import numpy as np
import pytest

from lesionwise.triage.choice import _by_rule, choose
from lesionwise.triage.fitting import Cohort

CHANNELS = ("FLAIR", "T1w")


@pytest.mark.slow
def test_what_helps_is_taken_over_what_is_cheap(lesions):
    """Half of the signal is in the maps: baselines alone are more than a standard error behind."""
    columns = [c for c in lesions.columns if not c.startswith(("profile_", "map_", "drop_", "dropout_", "noise_"))]
    few = lesions[[c for c in columns if c not in ("mirrored_drop", "mirrored_spread")]]
    found = choose(few, channels=CHANNELS, kinds=("l1_logistic",), n_resamples=200)
    assert "saliency" in found.option.families or "reliance" in found.option.families
    names = [option.features for option in found.options]
    assert "context" not in names
    assert "radiomics (published)" not in names
    best = max(option.auc.estimate for option in found.options)
    assert best - found.option.auc.estimate <= 0.03
    written = json.loads(json.dumps(found.as_dict()))
    assert written["taken"]["features"] == found.option.features
    assert found.markdown().count("taken") == 1


def scored(aucs, *, lost=None, seed=0):
    """Options with scores of about the given AUC on a cohort of 20 patients, by a shared noise."""
    rng = np.random.default_rng(seed)
    false = np.tile([0, 1], 200).astype(np.int64)
    patients = np.repeat([f"{n:02d}" for n in range(20)], 20)
    cohort = Cohort(np.zeros((400, 1)), ("none",), false, patients, np.ones(400))
    noise = rng.normal(size=400)
    tried = []
    for n, gap in enumerate(aucs):
        called = np.zeros(400, dtype=bool)
        called[np.flatnonzero(false == 0)[: int(200 * (0 if lost is None else lost[n]))]] = True
        tried.append((f"set {n}", "l1_logistic", ("size",), noise + gap * false, called))
    return _by_rule(cohort, tried, max_loss=0.05, n_resamples=300, seed=0)


def test_equals_are_decided_by_cost():
    assert scored([1.0, 1.0, 1.0]).taken == 0


def test_a_clear_gain_is_worth_its_cost():
    assert scored([0.2, 2.0, 2.0]).taken == 1


def test_a_broken_promise_is_not_taken_however_good():
    found = scored([0.2, 3.0, 1.0], lost=[0.0, 0.2, 0.05])
    assert found.taken == 2
    assert found.options[1].behind < 0  # better than the best that keeps its promise
    assert scored([0.2, 3.0], lost=[0.3, 0.2]).taken == 1  # none keeps it: the one that loses least
