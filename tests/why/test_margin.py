"""Networks whose minds change at a known point."""

import numpy as np
import pytest
import torch
from known import LESIONS, Linear, ball, found_scan_of
from torch import nn

from lesionwise.why.changes import contrast_dial
from lesionwise.why.lesions import Effort, dials_of, why_lesion
from lesionwise.why.margin import MOST_PASSES, find_margins, flipped_input
from lesionwise.why.question import Question
from lesionwise.why.rule import Rule
from lesionwise.windows import WindowGrid, predict, probability_on_scan

MARGINS_ONLY = Effort(evaluations=0)


def question(network, number=0, **options):
    scan = found_scan_of(network, **options)
    return Question.about(scan, scan.instances[number])


def known_margin(one, channel=0):
    """Where a voxel-wise threshold on one channel loses the sixth brightest voxel: in closed form, voxel by voxel.

    Healthy h, lesion x, threshold 0.5 in probability = 1 / weight in the channel: the voxel passes while
    h + t (x - h) > b; six voxels must pass (they are all connected in a ball).
    """
    x, h = one.base[channel], one.healthy[channel]
    weight, bias = 2.0, 1.0
    t = (bias / weight - h) / (x - h)
    passes_from = t[one.lesion & (x - h > 0)].sort().values
    return float(passes_from[int(one.rule.least) - 1])


def test_a_threshold_on_flair_has_its_margin_in_closed_form():
    one = question(Linear((2.0, 0.0)))
    assert one.unchanged.found
    margins = find_margins(one, dials_of(one))
    expected = known_margin(one)
    for dial in ("all", "FLAIR"):
        found = margins[dial]
        assert min(found.stays, found.flips) - 0.02 <= expected <= max(found.stays, found.flips) + 0.02
        assert found.resolution <= 1 / 160 + 1e-9
        assert found.verified
    assert not margins["T1w"].has_flip  # T1w is not read: no contrast on it changes anything
    assert margins["T1w"].verified is None
    assert all(margin.passes <= MOST_PASSES for margin in margins.values())


def test_a_network_of_t1w_alone_does_not_mind_flair():
    one = question(Linear((0.0, -2.0), bias=0.8))
    margins = find_margins(one, dials_of(one))
    assert not margins["FLAIR"].has_flip
    assert margins["T1w"].has_flip
    assert margins["T1w"].value == pytest.approx(margins["all"].value, abs=0.02)


def test_every_flip_holds_for_the_whole_scan_predicted_anew():
    scan = found_scan_of(Linear((2.0, -0.5), width=3), window=(16, 16, 16))
    for instance in scan.instances:
        one = Question.about(scan, instance)
        dials = dials_of(one)
        margins = find_margins(one, dials)
        flipping = [dial for dial in dials if margins[dial.name].has_flip]
        assert flipping
        for dial in flipping:
            changed = scan.placement.input.clone()
            changed[0][(slice(None), *one.probe.box.slices)] = flipped_input(dial, margins[dial.name])
            grid = WindowGrid.of(scan.model.spec, scan.grid.shape)
            logits = predict(scan.model.network, changed, grid)
            p = probability_on_scan(logits, scan.placement, scan.model.spec).numpy()
            whole = instance.mask(scan.case.image.shape)
            assert Rule.of(scan).finds(p, whole) != one.unchanged.found


class Sized(nn.Module):
    """Finds what is brighter than 1 on FLAIR in most of a 5-cube around: a rule of size."""

    def forward(self, x):
        bright = (x[:, :1] > 1.0).float()
        share = nn.functional.avg_pool3d(bright, 5, stride=1, padding=2)
        y = 40 * (share - 0.3)
        return torch.cat([torch.zeros_like(y), y], dim=1)


def test_a_rule_of_size_is_met_by_shrinking():
    one = question(Sized(), noise=0.0)
    assert one.unchanged.found
    found = find_margins(one, dials_of(one))["size"]
    depth = float(-one.distance_mm[one.lesion].min())
    assert 0 < found.value < depth
    assert found.verified


def test_a_missed_lesion_would_be_found_from_a_contrast_on():
    scan = found_scan_of(Linear((2.0, 0.0), bias=5.0))
    missed = [one for one in scan.instances if one.outcome == "FN"]
    assert missed
    one = Question.about(scan, missed[0])
    assert not one.unchanged.found
    found = find_margins(one, [contrast_dial(one, ("FLAIR",), found=False, name="FLAIR")])["FLAIR"]
    assert found.has_flip
    assert 1 < found.stays < found.flips <= 3
    assert one.ask_plainly(contrast_dial(one, ("FLAIR",), found=False, name="FLAIR").make_fn(found.flips)).found


def test_a_shrinking_lesion_starts_as_it_is_and_ends_as_healthy_tissue():
    one = question(Linear((2.0, 0.0)))
    dial = {dial.name: dial for dial in dials_of(one)}["size"]
    assert torch.allclose(dial.make_fn(0.0), one.base, atol=1e-6)
    assert torch.allclose(dial.make_fn(dial.end), one.healthy, atol=1e-6)
    little = dial.make_fn(0.05)
    core = one.distance_mm < -0.1
    assert torch.allclose(little[:, core], one.base[:, core], atol=1e-6)  # the border moves, the core stays


class Surround(nn.Module):
    """Looks at FLAIR 8 voxels to the side only: context alone decides."""

    def forward(self, x):
        y = 4 * torch.roll(x[:, :1], 8, dims=2) - 2
        return torch.cat([torch.zeros_like(y), y], dim=1)


def test_a_network_that_reads_context_alone_has_no_margin_of_its_own():
    """What it invents lies 8 voxels beside the lesion: fading it changes nothing, taking the lesion away does."""
    scan = found_scan_of(Surround(), lesions=LESIONS[1:])
    beside = ball((28, 21, 16), 3)
    (invented,) = (one for one in scan.instances if one.outcome == "FP" and beside[one.index].mean() > 0.5)
    why = why_lesion(scan, invented, effort=MARGINS_ONLY)
    assert why.answer.found
    assert not any(margin.has_flip for margin in why.margins.values())
    assert why.without_rim.found
    assert not why.without_neighbours.found
    assert why.without_neighbours.target < why.answer.target - 4


def test_the_rule_is_threshold_connectivity_and_size():
    p, omega = np.zeros((8, 8, 8)), np.zeros((8, 8, 8), dtype=bool)
    omega[3, 3, 3] = True
    p[3, 3, 3:7] = 0.6
    assert not Rule(0.5, 18, 6).finds(p, omega)
    p[4, 4, 7] = 0.6  # joined by a corner to the row's end
    p[4, 4, 6] = 0.6  # and by an edge
    assert Rule(0.5, 18, 6).finds(p, omega)
    assert not Rule(0.5, 6, 6).finds(p, omega)
    assert not Rule(0.6, 18, 6).finds(p, omega)
    assert not Rule(0.5, 18, 6).finds(p, np.zeros_like(omega))
