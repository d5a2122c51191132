"""Every measure raises its sentence on what it is meant to notice, and none on a brain that was prepared well."""

import numpy as np
import pytest
from heads import motion

from lesionwise.prepare.doubts import MEASURES, judge, measure_alignment, measure_brain
from lesionwise.prepare.registration import Rigid

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
AFFINE[:3, 3] = -100.0
WELL = {
    "brain_ml": 1400.0,
    "brain_solidity": 0.9,
    "brain_cut": 0.0,
    "brain_agreement": 0.97,
    "head_agreement": 0.9,
    "covered": 1.0,
    "moved_mm": 3.0,
    "turned_degrees": 1.0,
    "information_before": 0.3,
    "information_after": 0.5,
    "information_mirrored": 0.3,
}


def ball(radius_mm: float, centre=(0.0, 0.0, 0.0)) -> np.ndarray:
    i, j, k = (np.arange(n) * size - 100.0 for n, size in zip((100, 100, 67), (2.0, 2.0, 3.0), strict=True))
    x, y, z = centre
    square = (i[:, None, None] - x) ** 2 + (j[None, :, None] - y) ** 2 + (k[None, None, :] - z) ** 2
    return square < radius_mm**2


def test_a_brain_that_went_well_raises_no_doubt():
    quality = judge(WELL, fixed="FLAIR", moved="T1w")
    assert quality.doubts == ()
    assert not quality.set_aside


@pytest.mark.parametrize(
    ("measure", "value", "sentence", "aside"),
    [
        ("brain_ml", 850.0, "850 ml", False),
        ("brain_ml", 400.0, "400 ml", True),
        ("brain_ml", 2600.0, "2600 ml", True),
        ("brain_solidity", 0.8, "face or neck", False),
        ("brain_solidity", 0.7, "face or neck", True),
        ("brain_cut", 0.4, "field of view ends", False),
        ("brain_agreement", 0.9, "overlap by 0.90", False),
        ("brain_agreement", 0.5, "overlap by 0.50", True),
        ("head_agreement", 0.6, "heads of FLAIR and T1w", False),
        ("covered", 0.9, "T1w covers 90 %", False),
        ("covered", 0.5, "T1w covers 50 %", True),
        ("moved_mm", 30.0, "30 mm", False),
        ("information_after", 0.25, "did not improve", False),
        ("information_after", 0.1, "little in common", True),
        ("information_mirrored", 0.6, "mirror image", True),
    ],
)
def test_each_measure_raises_its_own_sentence(measure, value, sentence, aside):
    quality = judge({**WELL, measure: value}, fixed="FLAIR", moved="T1w")
    told = [doubt for doubt in quality.doubts if sentence in doubt.sentence]
    assert len(told) == 1
    assert told[0].aside is aside
    if aside:
        assert quality.set_aside


def test_the_gravest_doubt_comes_first():
    quality = judge({**WELL, "covered": 0.9, "information_mirrored": 0.9}, fixed="FLAIR", moved="T1w")
    assert [doubt.aside for doubt in quality.doubts] == [True, False]


def test_a_ball_has_its_volume_fills_its_hull_and_is_not_cut():
    measures = measure_brain(ball(60.0), AFFINE)
    assert measures["brain_ml"] == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.01)
    assert measures["brain_solidity"] == pytest.approx(1.0, abs=0.04)
    assert measures["brain_cut"] == 0.0


def test_a_neck_lowers_the_solidity_and_the_upper_edge_of_the_grid_cuts():
    necked = ball(50.0, (0, 0, 40)) | (ball(25.0, (0, 30, -40)) | ball(25.0, (0, 30, -75)))
    assert measure_brain(necked, AFFINE)["brain_solidity"] < 0.85
    # the last slice lies at +98 mm: a ball around +80 mm ends in it, one below does not
    assert measure_brain(ball(40.0, (0, 0, 80)), AFFINE)["brain_cut"] > 0.5


def test_alignment_is_measured_where_both_channels_were_scanned():
    brain = ball(60.0)
    covered = np.ones_like(brain)
    covered[:, :, :20] = False
    rigid = Rigid(motion((5.0, 0.0, 0.0), (0.0, 0.0, 0.0), np.zeros(3)), 0.2, 0.4, 0.1)
    halves = (brain, brain & covered)
    measures = measure_alignment(rigid, brain, AFFINE, brains=halves, heads=halves, covered=covered)
    assert measures["brain_agreement"] == 1.0
    assert measures["covered"] == pytest.approx((brain & covered).sum() / brain.sum())
    assert measures["moved_mm"] == pytest.approx(5.0)
    assert set(measures) | set(measure_brain(brain, AFFINE)) <= set(MEASURES)
