"""Likeness: fitted patients are within it, a patient beyond them is not, and too few patients say nothing."""

import numpy as np
import pytest
from triage_models import CHANNELS

from lesionwise.triage.likeness import Likeness
from lesionwise.triage.model import fit_model, load_triage, save_model


def cohort(*, patients=30, lesions=12, seed=0):
    rng = np.random.default_rng(seed)
    offsets = rng.normal(scale=0.5, size=(patients, 4))
    table = np.concatenate([offset + rng.normal(size=(lesions, 4)) for offset in offsets])
    return table, np.repeat([f"{n:02d}" for n in range(patients)], lesions)


def test_patients_like_those_fitted_on_are_within_the_limit():
    known = Likeness.learn(*cohort())
    table, patients = cohort(seed=1)
    distances = [known.distance(table[patients == name]) for name in np.unique(patients)]
    assert np.mean([d <= known.limit for d in distances]) >= 0.85


def test_a_patient_beyond_them_is_found_and_its_features_named():
    table, patients = cohort()
    known = Likeness.learn(table, patients)
    strange = table[:12] + np.array([0.0, 0.0, 12.0, 4.0])
    assert known.distance(strange) > known.limit
    assert [n for n, _ in known.farthest(strange)] == [2, 3]
    assert known.farthest(strange)[0][1] == pytest.approx(np.median(strange[:, 2]))


def test_distance_by_hand():
    known = Likeness(np.array([0.0, 10.0, np.nan]), np.array([1.0, 2.0, np.nan]), 1.0)
    table = np.array([[1.0, 12.0, 5.0], [3.0, 16.0, np.nan], [2.0, 14.0, np.nan]])
    assert known.distance(table) == pytest.approx(2.0)  # medians 2 and 14: 2 deviations each; the third is not known
    assert known.distance(table[:0]) == 0.0


def test_too_few_patients_say_nothing():
    table, patients = cohort(patients=9)
    assert Likeness.learn(table, patients) is None


def test_it_is_kept_with_the_model(lesions, tmp_path):
    model, _ = fit_model(lesions, channels=CHANNELS)
    save_model(model, tmp_path / "model.json")
    loaded = load_triage(tmp_path / "model.json").likeness
    np.testing.assert_array_equal(loaded.centre, model.likeness.centre)
    np.testing.assert_array_equal(loaded.spread, model.likeness.spread)
    assert loaded.limit == model.likeness.limit
