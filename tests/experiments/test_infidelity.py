"""On a linear network every exact explanation foresees everything, the reversed map nothing, a shuffled one next to nothing."""

from dataclasses import replace

import numpy as np
import pytest
from known import Linear, case, explained, scan_of, segmenter

from lesionwise.asking.scan import Scan
from lesionwise.attribution import METHODS
from lesionwise.experiments.deletion import Stage, curves
from lesionwise.experiments.faithfulness import question_of

EXACT = {
    "gradient": {},
    "smoothgrad": {"n_samples": 2},
    "inputxgradient": {},
    "ig": {"n_steps": 2},
    "eg": {"n_samples": 2},
    "occlusion": {},
    "shapley": {"edges_mm": (2.0, 7.0)},
}


def prepared(scan):
    """Per method the map of the first lesion, beside what it takes to judge it."""
    one = scan.chosen[0]
    stage = Stage.of(scan, one)
    methods = {name: METHODS[name](**options) for name, options in EXACT.items()}
    return stage, question_of(stage), {name: scan.attribute([one], method)[0] for name, method in methods.items()}


@pytest.fixture(scope="module")
def linear():
    return prepared(scan_of(Linear((3.0, 1.0), width=3, bias=2.0)))


@pytest.fixture(scope="module")
def thick():
    """The same network at 1 mm on a scan of 0.9 x 0.9 x 2 mm."""
    model = segmenter(Linear((3.0, 1.0), width=3, bias=2.0))
    model = replace(model, description=replace(model.description, spacing_mm=1.0))
    scan = case()
    scan = replace(scan, image=replace(scan.image, affine=np.diag([0.9, 0.9, 2.0, 1.0])))
    return prepared(Scan(model, explained(model, scan)))


def judged(question, found, seed=0, count=3):
    return question.infidelity(found, derivative=True, count=count, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("scan", ["linear", "thick"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_maps_get_0_and_reversed_ones_1(scan, name, request):
    _, question, maps = request.getfixturevalue(scan)
    found = maps[name]
    right, wrong, scaled = (judged(question, replace(found, data=f * found.data)) for f in (1.0, -1.0, 1000.0))
    assert right["infidelity"] < 1e-6
    assert right["infidelity_unscaled"] < 1e-6
    assert wrong["infidelity"] == 1.0
    assert wrong["infidelity_unscaled"] == pytest.approx(4.0, abs=1e-2)
    assert scaled["infidelity"] < 1e-6
    assert scaled["infidelity_unscaled"] > 1e5
    assert judged(question, replace(found, data=0.0 * found.data))["infidelity"] == 1.0


@pytest.mark.parametrize("name", EXACT)
def test_a_shuffled_map_foresees_next_to_nothing(linear, name):
    _, question, maps = linear
    found, rng = maps[name], np.random.default_rng(1)
    whole = np.zeros((len(found.data), *question.box.shape))
    both = found.box.intersection(question.box)
    part = found.data[(slice(None), *both.relative_to(found.box).slices)]
    whole[(slice(None), *both.relative_to(question.box).slices)] = part
    inside, values = question.region[question.box.slices], []
    for seed in range(3):
        shuffled = np.zeros_like(whole)
        shuffled[:, inside] = rng.permutation(whole[:, inside], axis=1)  # wherever it may lie within 10 mm
        values.append(
            judged(question, replace(found, data=shuffled, box=question.box, se=None), seed, 12)["infidelity"]
        )
    assert np.mean(values) > 0.75, values


@pytest.mark.parametrize("name", EXACT)
def test_deleting_in_the_reversed_order_does_worse(linear, name):
    """Evidence against the lesion counts against a voxel, in whatever channel it lies."""
    stage, _, maps = linear
    fractions = (0.0, 0.05, 0.2, 0.5, 1.0)
    right, wrong = (
        curves(stage, stage.on_network(replace(maps[name], data=f * maps[name].data)), fractions) for f in (1.0, -1.0)
    )
    assert right["deletion"] < wrong["deletion"] - 0.3
    assert right["insertion"] > wrong["insertion"] + 0.3
