"""Structural uncertainty and error retention on networks and orders whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from triage_scans import CHANNELS, ball_scan

from lesionwise.segmenter import MeanOfViews, Segmenter, Spec
from lesionwise.triage.probing import Questions
from lesionwise.triage.retention import errors_left, retention_curve
from lesionwise.triage.structural import best_iou, structural_uncertainty


class Balls(nn.Module):
    """Members that draw the bright ball, the same ball, and nothing at all: logits of FLAIR minus T1w, shifted."""

    def __init__(self, shifts):
        super().__init__()
        self.shifts = shifts

    def forward(self, x):
        y = 20.0 * (nn.functional.avg_pool3d(x[:, :1] - x[:, 1:], 3, 1, 1) - 3.0)
        return torch.cat([part for shift in self.shifts for part in (torch.zeros_like(y), y + shift)], dim=1)


class Views(MeanOfViews):
    """The same networks as views of one model."""

    def __init__(self, shifts):
        super().__init__()
        self.shifts = shifts

    count = property(lambda self: len(self.shifts))
    wording = property(lambda self: "views")

    def one(self, x, view):
        return Balls([self.shifts[view]])(x)


def uncertainty(network, **changes):
    scan, _ = ball_scan()
    spec = Spec("known", CHANNELS, (24, 24, 24), orientation=None, spacing_mm=None, normalisation="none")
    model = Segmenter(network.eval(), replace(spec, **changes))
    questions = Questions.of(scan, model)
    return structural_uncertainty(questions, 1)


def test_members_that_find_nothing_count_as_wholly_different():
    none = uncertainty(Balls([0.0, 0.0]), members=2)
    half = uncertainty(Balls([0.0, -1e4]), members=2)
    assert half == pytest.approx((none + 1.0) / 2)
    assert none < 0.5
    assert np.isnan(uncertainty(Balls([0.0])))


def test_views_of_a_model_are_its_members():
    assert uncertainty(Views([0.0, -1e4])) == pytest.approx(uncertainty(Balls([0.0, -1e4]), members=2))


def test_the_best_fitting_component_counts():
    row = np.arange(10)[None, None]
    assert best_iou((row >= 2) & (row < 6), (row < 3) | ((row >= 4) & (row < 6))) == pytest.approx(2 / 4)
    assert best_iou(row < 2, row > 5) == 0.0


def test_errors_left_by_hand_and_by_chance():
    wrong = np.array([1.0, 0, 0, 1, 0])
    doubt = np.array([5.0, 1, 2, 4, 3])
    assert [errors_left(doubt, 1 - wrong, wrong, r) for r in (0.6, 0.8, 1.0)] == [0.0, 0.5, 1.0]
    assert errors_left(np.zeros(5), 1 - wrong, wrong, 0.3) == pytest.approx(0.3)  # doubt that knows nothing
    assert np.isnan(errors_left(doubt, np.ones(5), np.zeros(5), 0.5))
    _, left = retention_curve(doubt, 1 - wrong, wrong)
    assert (np.diff(left) >= -1e-12).all()
    assert left[0] == 0.0
    assert left[-1] == 1.0
