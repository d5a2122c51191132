"""Lesions against the figures of real ones (METHOD section 8)."""

import numpy as np
import pytest
from scipy import ndimage

from lesionwise.instances.components import label_components
from lesionwise.phantom.lesions import followed_up, plan_lesions, plant
from lesionwise.phantom.patient import build_scene, synthesise


def test_plans_have_the_real_number_and_volume_of_lesions() -> None:
    patients = [plan_lesions(np.random.default_rng(seed)) for seed in range(400)]
    counts = np.array([len(p) for p in patients])
    np.testing.assert_allclose(np.quantile(counts, [0.25, 0.5, 0.75]), [25, 57, 99], rtol=0.2)
    assert counts.min() >= 12
    assert counts.max() <= 320
    volumes = np.array([lesion.volume_mm3 for p in patients for lesion in p])
    np.testing.assert_allclose(np.quantile(volumes, [0.05, 0.25, 0.5, 0.75, 0.95]), [7, 13, 27, 63, 355], rtol=0.2)
    large = volumes > 1000
    assert 0.012 < large.mean() < 0.03
    assert 0.6 < volumes[large].sum() / volumes.sum() < 0.85
    loads_ml = np.array([sum(lesion.volume_mm3 for lesion in p) for p in patients]) / 1000
    low, median, high = np.quantile(loads_ml, [0.25, 0.5, 0.75])
    assert 0.8 < low < 4  # real: 1.8
    assert 4 < median < 18  # real: 13.9
    assert 14 < high < 40  # real: 28
    assert loads_ml.max() < 53  # real: 52
    near = np.array([lesion.distance_mm <= 3 for p in patients for lesion in p])
    assert near[large].mean() == pytest.approx(0.91, abs=0.05)
    assert near.mean() == pytest.approx(0.15, abs=0.03)


@pytest.mark.slow
def test_planted_lesions_are_as_large_and_as_far_from_the_ventricles_as_real_ones() -> None:
    volumes, distances, loads = [], [], []
    for seed in (1, 2, 5):
        scene = build_scene(seed)
        reference = (scene.lesions.soft > 0.5) & (scene.anatomy.fluid < 0.4)
        labels = label_components(reference)
        numbers = np.arange(1, labels.max() + 1)
        sizes = np.bincount(labels.ravel(), minlength=labels.max() + 1)[1:]
        near = ndimage.minimum(scene.anatomy.ventricle_mm, labels, numbers)
        volumes.append(sizes[sizes > 5])
        distances.append(np.asarray(near)[sizes > 5])
        loads.append(reference.sum() / 1000)
    sizes, near = np.concatenate(volumes), np.concatenate(distances)
    np.testing.assert_allclose(np.quantile(sizes, [0.25, 0.5, 0.75]), [13, 27, 63], rtol=0.4)
    np.testing.assert_allclose(np.quantile(near, [0.25, 0.5, 0.75]), [5, 9, 14], atol=2.5)
    assert 0.005 < (sizes > 1000).mean() < 0.05
    assert min(loads) > 0.2
    assert max(loads) < 80


def test_a_confluent_lesion_hugs_the_ventricles_and_holds_its_volume() -> None:
    scene = build_scene(3, size="small", n_lesions=0)
    plan = next(
        p
        for seed in range(200)
        for p in plan_lesions(np.random.default_rng(seed))
        if p.confluent and 1500 < p.volume_mm3 < 4000 and p.distance_mm < 2
    )
    planted = plant(scene.anatomy, [plan])
    mask = planted.soft > 0.5
    assert mask.sum() == pytest.approx(plan.volume_mm3, rel=0.1)
    assert scene.anatomy.ventricle_mm[mask].min() < 3
    assert scene.anatomy.white[mask].mean() > 0.6
    assert set(np.unique(planted.index)) == {0, 1}


def test_follow_up_keeps_every_lesion_and_adds_some() -> None:
    plans = tuple(plan_lesions(np.random.default_rng(0), n_lesions=30))
    later = followed_up(np.random.default_rng(1), plans, new_lesions=5)
    assert len(later) >= len(plans)
    for before, after in zip(plans, later, strict=False):
        assert (before.seed, before.place, before.distance_mm) == (after.seed, after.place, after.distance_mm)
        assert 0.25 < after.volume_mm3 / before.volume_mm3 < 4


def test_follow_up_scan_shows_the_same_brain_with_overlapping_lesions() -> None:
    first, second = (synthesise(4, size="small", n_lesions=12, visit=visit) for visit in (1, 2))
    np.testing.assert_array_equal(first.ventricle_mm, second.ventricle_mm)
    labels = label_components(first.reference)
    sizes = np.bincount(labels.ravel())
    large = [n for n in range(1, labels.max() + 1) if sizes[n] >= 20]
    assert large
    kept = [second.reference[labels == n].any() for n in large]
    assert np.mean(kept) > 0.8
    assert not np.array_equal(first.image.data, second.image.data)
