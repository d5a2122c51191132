"""Explanations that stay, and such that do not, of networks whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from known import Linear, found_scan_of, segmenter
from torch import nn

from lesionwise.asking.scan import Scan
from lesionwise.asking.variants import Mirrored
from lesionwise.models.members import Members
from lesionwise.report.why import why_words
from lesionwise.segmenter import Segmenter
from lesionwise.why.lesions import Effort, why_scan
from lesionwise.why.question import Question
from lesionwise.why.stability import stability_of

FLAIR = ((3.0, 0.0), 3.0)


def scan_of_members(*networks):
    """The scan before an ensemble; found by the first network alone."""
    found = found_scan_of(networks[0])
    alone = segmenter(networks[0])
    ensemble = Segmenter(Members(list(networks)).eval(), replace(alone.spec, members=len(networks)))
    return Scan(ensemble, found.explained)


def linear(weight, bias, **options):
    return Linear((weight, 0.0), bias=bias, **options).eval()


class OneSided(nn.Module):
    """Finds nothing in the upper half of the first axis."""

    def __init__(self):
        super().__init__()
        self.inner = linear(3.0, 3.0)

    def forward(self, x):
        logits = self.inner(x)
        blind = torch.zeros(logits.shape[2:])
        blind[logits.shape[2] // 2 :] = 50.0
        return torch.stack([logits[:, 0], logits[:, 1] - blind], dim=1)


def test_members_that_agree_are_stable_and_the_effect_of_a_linear_network_is_its_weight():
    scan = scan_of_members(linear(3.0, 3.0), linear(3.0, 3.0))
    found = stability_of(Question.about(scan, scan.instances[0]), samples=2)
    assert [one.kind for one in found.told] == ["model", "networks", "networks", "mirrored", "seeds", "seeds"]
    sd = float(scan.placement.scale[0])
    for one in found.told:
        assert one.effects == pytest.approx((3.0 * sd, 0.0), rel=1e-4, abs=1e-6)
    assert (found.verdict, found.source) == ("stable", "")


@pytest.mark.parametrize(
    ("other", "verdict"),
    [((9.0, 9.0), "size differs"), ((-1.0, -8.0), "sign differs"), ((3.0, 30.0), "decision differs")],
)
def test_a_member_that_departs_is_told(other, verdict):
    scan = scan_of_members(linear(3.0, 3.0), linear(3.0, 3.0), linear(*other))
    found = stability_of(Question.about(scan, scan.instances[0]), samples=2)
    assert found.whole.found
    assert found.verdict == verdict
    assert found.source == "networks"


def test_the_mirrored_network_answers_as_the_network_on_the_mirrored_scan():
    network = OneSided()
    x = torch.randn(1, 2, 6, 7, 8)
    assert torch.equal(Mirrored(network, 0)(x), network(x.flip(2)).flip(2))
    scan = found_scan_of(network)
    found = stability_of(Question.about(scan, scan.instances[0]), samples=2)
    assert (found.verdict, found.source) == ("decision differs", "mirrored")


def test_it_mirrors_left_to_right_wherever_that_lies_on_the_grid():
    scan = found_scan_of(linear(3.0, 3.0))
    turned = scan.case.image.affine[:, [1, 2, 0, 3]]
    other = Scan(
        scan.model, replace(scan.explained, case=replace(scan.case, image=replace(scan.case.image, affine=turned)))
    )
    assert [one.left_right_axis for one in (scan, other)] == [0, 2]


def test_the_table_and_the_sentence_say_it():
    scan = scan_of_members(linear(3.0, 3.0), linear(3.0, 3.0), linear(3.0, 30.0))
    table = why_scan(scan, effort=Effort(stability=2))
    row = table.iloc[0]
    assert row["stability_networks"] == 3
    assert row["stability_networks_found"] == 2
    assert row["stability_networks_low_FLAIR"] == pytest.approx(row["stability_networks_high_FLAIR"], rel=1e-4)
    assert np.isfinite(row["stability_mirrored_low_FLAIR"])
    words = why_words(table, int(row["lesion"]), ("FLAIR", "T1w"))
    assert "Not stable: asked otherwise, the decision itself changes: the effect of FLAIR is" in words
    assert "over 3 networks asked alone, of which 2 find it" in words
