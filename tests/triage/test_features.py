"""Features measured on shapes and maps whose numbers are known."""

import numpy as np
import pandas as pd
import pytest
from triage_scans import CHANNELS, SHAPE, ball_scan

from lesionwise.triage import context, disagreement, margins
from lesionwise.triage.baselines import baseline_features, entropy_bit
from lesionwise.triage.cohort import draw_lesions, measure_scan
from lesionwise.triage.families import catalogue, of_families
from lesionwise.triage.signed import saliency_features


def test_baselines_of_a_ball():
    scan, ball = ball_scan()
    found = baseline_features(scan, scan.view(1))
    assert found["probability_mean"] == pytest.approx(0.8)
    assert found["probability_rim"] == pytest.approx(0.1)
    assert found["entropy_mean"] == pytest.approx(float(entropy_bit(np.array([0.8]))[0]))
    assert found["volume_log"] == pytest.approx(np.log(ball.sum()))
    assert found["elongation"] == pytest.approx(1, abs=0.01)
    assert found["flatness"] == pytest.approx(1, abs=0.01)
    assert found["compactness"] == pytest.approx(1, abs=0.2)
    assert found["extent"] == pytest.approx(np.pi / 6, abs=0.12)
    assert found["left_right"] == pytest.approx(0, abs=0.03)
    assert found["head_depth_mm"] == pytest.approx(14, abs=1)
    assert found["neighbour_mm"] == 60
    assert found["image_contrast_FLAIR"] > 1.5
    assert found["image_contrast_T1w"] < -1


@pytest.mark.parametrize("looked_mm", [3.0, 1000.0])  # nearer than the ball's fluid is, and farther
def test_distance_to_fluid_is_that_to_the_nearest_dark_voxel(looked_mm, monkeypatch):
    monkeypatch.setattr("lesionwise.triage.scan._FLUID_NEAR_MM", looked_mm)
    scan, ball = ball_scan()
    assert scan.image is not None
    assert scan.case is not None
    fluid = np.argwhere(scan.case.head & np.all(scan.image < -1.0, axis=0))
    assert len(fluid)
    gaps = np.maximum(np.abs(np.argwhere(ball)[:, None] - fluid[None]) - 0.5, 0)
    nearest = np.linalg.norm(gaps, axis=-1).min(axis=1)
    assert nearest.max() > 3.0
    assert scan.fluid_mm is not None
    assert scan.fluid_mm[ball] == pytest.approx(nearest, rel=1e-6)


def test_size_and_depth_are_in_mm():
    fine, _ = ball_scan()
    coarse, ball = ball_scan(radius=8.4, sizes=(2.0, 2.0, 2.0))
    a, b = (baseline_features(s, s.view(1)) for s in (fine, coarse))
    assert b["volume_log"] == pytest.approx(a["volume_log"] + np.log(8))
    assert b["depth_max_mm"] == pytest.approx(2 * a["depth_max_mm"])
    assert b["elongation"] == pytest.approx(a["elongation"], abs=1e-6)
    assert ball.any()


def test_profile_and_signs_of_a_map_made_by_distance():
    """+1 inside, -1 within 3 mm outside, 0 beyond; values are of the summed target, so times |Omega|."""
    scan, ball = ball_scan()
    distance = scan.view(1).distance_mm
    box = scan.view(1).box
    values = np.zeros((2, *SHAPE))
    values[0][box.slices] = np.where(distance <= 0, 1.0, np.where(distance <= 3, -1.0, 0.0))
    values[1] = -values[0]
    scan, _ = ball_scan(weights=values)
    n = ball.sum()
    found = saliency_features(scan.view(1), scan.lesions.iloc[0].to_dict(), channels=CHANNELS)
    assert found["mean_in_FLAIR"] == pytest.approx(n)
    assert found["profile_core_-1.5mm_FLAIR"] == pytest.approx(n)
    assert found["profile_-1.5_0mm_FLAIR"] == pytest.approx(n)
    assert found["profile_1_2mm_FLAIR"] == pytest.approx(-n)
    assert found["profile_3_5mm_FLAIR"] == 0
    assert found["shell_contrast_FLAIR"] == pytest.approx(2 * n)
    assert found["shell_contrast_T1w"] == pytest.approx(-2 * n)
    assert found["positive_in_FLAIR"] == 1
    assert found["positive_in_T1w"] == 0
    assert found["channel_agreement"] == pytest.approx(-1)
    assert found["sign_conflict"] == 1
    mass_out = ((distance > 0) & (distance <= 3)).sum()
    assert found["inside_share_FLAIR"] == pytest.approx(n / (n + mass_out))
    assert found["far_share_FLAIR"] == 0
    assert found["peak_FLAIR"] == pytest.approx(0.2 * n)
    assert found["instability_FLAIR"] == pytest.approx(0.05 * 2 / 0.2)


def test_push_is_exact_for_a_linear_network():
    """y = sum w x: replacing what surrounds the lesion's level changes y by just the push, inside and around."""
    rng = np.random.default_rng(3)
    scan, ball = ball_scan()
    view = scan.view(1)
    w = np.zeros((2, *SHAPE))
    w[(slice(None), *view.box.slices)] = rng.normal(size=(2, *view.box.shape))
    scan, _ = ball_scan(weights=w)
    view = scan.view(1)
    found = saliency_features(view, scan.lesions.iloc[0].to_dict(), channels=CHANNELS)
    for c, channel in enumerate(CHANNELS):
        level = np.median(view.image[c][view.shell(3, 7)])
        flat = np.where(view.inside, level, view.image[c])
        weights = view.map[c]
        assert found[f"push_in_{channel}"] == pytest.approx(((view.image[c] - flat) * weights).sum(), rel=1e-5)
    assert ball.any()


def test_a_lesion_without_map_has_no_saliency_but_all_baselines():
    scan, _ = ball_scan()
    found = saliency_features(scan.view(1), scan.lesions.iloc[0].to_dict(), channels=CHANNELS)
    assert all(np.isnan(value) for value in found.values())


def test_what_is_measured_is_what_the_catalogue_lists():
    scan, _ = ball_scan(weights=np.ones((2, *SHAPE)))
    row = measure_scan(scan)
    asks = {f.name for module in (context, disagreement, margins) for f in module.features(CHANNELS)}
    identity = {"subject", "scan", "lesion", "outcome", "volume_mm3", "weight"}
    assert set(row.columns) - identity == set(catalogue(CHANNELS)) - asks - {
        "structural_uncertainty"
    }  # needs several networks
    assert np.isfinite(row[["push_in_FLAIR", "mean_in_T1w", "fluid_share"]].to_numpy(dtype=float)).all()


def test_draws_are_half_and_half_bounded_and_seeded():
    outcome = ["TP"] * 30 + ["FP"] * 4 + ["FN"] * 9 + ["TN"] * 2
    lesions = pd.DataFrame({"lesion": np.arange(1, 46), "outcome": outcome})
    drawn = draw_lesions(lesions, limit=15, seed=1)
    assert len(drawn) == 15
    assert set(range(31, 35)) < set(drawn)  # all four false ones
    assert max(drawn) < 35  # no missed ones, no controls
    assert drawn == draw_lesions(lesions, limit=15, seed=1)
    assert drawn != draw_lesions(lesions, limit=15, seed=2)
    many = lesions.assign(outcome=["TP"] * 20 + ["FP"] * 25)
    assert sum(n > 20 for n in draw_lesions(many, limit=10, seed=0)) == 5
    assert draw_lesions(lesions.iloc[:0], limit=5, seed=0) == []


def test_reliance_is_a_few_features_of_the_maps():
    few = of_families(catalogue(CHANNELS), ("reliance",))
    assert {"share_FLAIR", "push_in_T1w", "inside_share_FLAIR", "sign_conflict"} <= set(few)
    assert {catalogue(CHANNELS)[name].family for name in few} == {"saliency"}
    assert len(few) == 14
    assert of_families(catalogue(CHANNELS), ("size", "reliance"))[:2] == ["volume_log", "depth_max_mm"]
