"""Games whose Shapley values are known."""

import numpy as np
import pytest
from known import Linear, found_scan_of

from lesionwise.why.anatomy import anatomical_shapley, parts
from lesionwise.why.question import Question
from lesionwise.why.shapley import exact, sampled, shapley

GLOVES = {frozenset(s): v for s, v in (((), 0), ((0,), 0), ((1,), 0), ((2,), 0), ((0, 1), 0), ((0, 2), 1), ((1, 2), 1))}


def gloves(sets):
    """Two left gloves and a right one: a pair is worth 1 (Shapley values 1/6, 1/6, 2/3)."""
    return [GLOVES.get(s, 1) for s in sets]


def test_the_glove_game():
    found = exact(3, gloves)
    assert found.values == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert found.values.sum() == pytest.approx(found.total, abs=1e-12)


def test_sampling_agrees_within_its_error_and_adds_up():
    rng = np.random.default_rng(0)
    weights = np.random.default_rng(1).normal(size=8)

    def values(sets):
        return [sum(weights[list(s)]) + (3.0 if {0, 1, 5} <= s else 0.0) - 2.0 * (2 in s and 6 in s) for s in sets]

    truth = exact(8, values)
    found = sampled(8, values, evaluations=1500, rng=rng)
    assert found.values.sum() == pytest.approx(found.total, abs=1e-10)
    assert (np.abs(found.values - truth.values) <= 4 * found.errors + 1e-12).all()
    assert found.errors[0] > 0
    assert found.errors[3] == pytest.approx(0, abs=1e-12)  # a player without interactions is exact at once
    assert shapley(3, gloves, evaluations=8, rng=rng).exact
    assert not shapley(3, gloves, evaluations=7, rng=rng).exact


def test_a_linear_network_gives_each_part_what_it_multiplies():
    """y is the mean over the lesion of 2 FLAIR - 0.3 T1w: only the lesion matters, by its difference from the fill."""
    scan = found_scan_of(Linear((2.0, -0.3)))
    one = Question.about(scan, scan.instances[0])
    found = anatomical_shapley(one, evaluations=64)
    fill = one.probe.tissue_everywhere(rng=scan.rng(one.instance.label, 31))
    difference = (one.base - fill)[:, one.lesion].mean(dim=1)
    assert found.values["lesion", "FLAIR"] == pytest.approx(2 * float(difference[0]), abs=1e-5)
    assert found.values["lesion", "T1w"] == pytest.approx(-0.3 * float(difference[1]), abs=1e-5)
    rest = [value for (part, _), value in found.values.items() if part != "lesion"]
    assert np.abs(rest).max() < 1e-5
    assert sum(found.values.values()) == pytest.approx(found.total, abs=1e-10)
    assert found.leading == ("lesion", "FLAIR")


def test_parts_do_not_overlap_and_hold_the_head_together():
    scan = found_scan_of(Linear((2.0, 0.0)))
    one = Question.about(scan, scan.instances[0])
    masks = parts(one)
    assert {"lesion", "rim", "white", "others"} <= set(masks)
    total = sum(mask.int() for mask in masks.values())
    assert int(total.max()) == 1
    assert (total.numpy() == (one.probe.head | one.lesion.numpy())).all()
