"""The benchmark at toy size: planted causes are the networks', the same command gives the same numbers, own methods run."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lesionwise.benchmark.contestants import contestants, own_contestant
from lesionwise.benchmark.judge import RIVALS, TRUE, rivals_of
from lesionwise.benchmark.networks import WEIGHTS, network_of, shipped
from lesionwise.benchmark.patients import Stroke
from lesionwise.benchmark.rules import RULES
from lesionwise.benchmark.run import BenchmarkPlan, run_benchmark
from lesionwise.benchmark.scores import SCORES
from lesionwise.benchmark.tables import verdict
from lesionwise.benchmark.truth import Exam
from lesionwise.errors import InputError
from lesionwise.segmenter import zscore
from lesionwise.stats import Interval
from lesionwise.units import Settings

OWN = """
from dataclasses import dataclass
import lesionwise as lw
import torch

@dataclass(frozen=True)
class Mine(lw.AbstractInputMethod):
    name = "mine"

    def units(self, target):
        return target.unit

    def attribute(self, function, x):
        return torch.autograd.grad(function(x).sum(), x)[0]
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """One patient, one rule, one method of the registry, and one's own that is the same."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "planted_own_method.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = BenchmarkPlan(("gradient", "planted_own_method:Mine"), ("t1w",), subjects=1, samples=1)
        first = run_benchmark(plan, folder / "first", version="0")
        again = run_benchmark(replace(plan, methods=("gradient",)), folder / "again", version="0")
    return folder, first, again


def test_the_same_command_gives_the_same_numbers(toy):
    folder, _, _ = toy
    for name in ("verification", "measures", "lesions"):
        first, again = (pd.read_csv(folder / run / f"{name}.tsv", sep="\t") for run in ("first", "again"))
        if "method" in first:
            first = first[first["method"] != "mine"].reset_index(drop=True)
        assert len(first)
        pd.testing.assert_frame_equal(first, again, check_exact=True)
    tables = [pd.read_csv(folder / run / "benchmark.tsv", sep="\t") for run in ("first", "again")]
    first, again = (table.drop(columns="seconds_per_lesion") for table in tables)
    pd.testing.assert_frame_equal(first[first["method"] != "mine"].reset_index(drop=True), again)
    assert (folder / "first" / "benchmark.png").is_file()
    config = json.loads((folder / "first" / "config.json").read_text())
    assert config["Plan"]["seed"] == 0
    assert config["Versions"]["torch"]


def test_the_true_map_is_right_and_wrong_ones_are_not(toy):
    table = toy[1].tables["benchmark"].set_index(["method", "rule"])
    assert table.loc[(TRUE, "all"), "named"] == 1.0
    for rival in RIVALS:
        row = table.loc[(rival, "all")]
        for score in SCORES:
            assert row[score] < table.loc[(TRUE, "all"), score] - 0.2


def test_a_method_of_ones_own_is_judged_as_the_same_one_of_the_registry(toy):
    table = toy[1].tables["benchmark"]
    ours, mine = (table[table["method"] == name][[*SCORES]].to_numpy(float) for name in ("gradient", "mine"))
    np.testing.assert_allclose(ours, mine, atol=0.02)


def test_every_measure_of_faithfulness_is_judged(toy):
    measures = toy[1].tables["measures"]
    from lesionwise.experiments.faithfulness import MEASURES

    assert set(measures["measure"]) == set(MEASURES)
    assert measures.set_index("measure").loc["leakage", "first"] == 0.0  # it does not know the sign
    assert set(measures["verdict"]) == {"too few patients"}


def test_verdicts():
    assert verdict(Interval(0.95, 0.9, 1.0, 8)) == "right"
    assert verdict(Interval(0.5, 0.3, 0.7, 8)) == "in part"
    assert verdict(Interval(0.5, 0.2, 0.8, 8)) == "fails"
    assert verdict(Interval(1.0, float("nan"), float("nan"), 1)) == "too few patients"
    assert verdict(Interval(float("nan"), float("nan"), float("nan"), 0)) == "not asked"


def test_taking_a_stroke_away_is_the_scan_drawn_without_it(toy):
    """In the network's units, with mean and SD as they were."""
    rule = RULES["t1w"]
    patient = rule.patient(0)
    exam = Exam.of(rule, patient, network_of("t1w"), Settings())
    number, blob = exam.asked[0]
    (stroke,) = exam.parts(blob, rule.causes)
    probe = exam.scan.probe(exam.instance(number))
    image, head = patient.image.copy(), patient.background.head
    image[stroke.channel] -= stroke.change * head
    before = patient.image[:, head]
    mean, sd = before.mean(axis=1, dtype=float), before.std(axis=1, dtype=float)
    wanted = np.where(head, (image - mean[:, None, None, None]) / sd[:, None, None, None], 0.0)
    assert np.abs(exam.without(probe, stroke).numpy() - wanted[(slice(None), *probe.box.slices)]).max() < 1e-4
    assert np.abs(zscore(patient.image, head)[(slice(None), *probe.box.slices)] - probe.base.numpy()).max() < 1e-5


def test_the_networks_are_small_and_still():
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 5_000_000
    assert len(shipped()) > 1
    for rule in shipped():
        network = network_of(rule).network
        assert not network.training
        assert all(torch.isfinite(p).all() for p in network.parameters())


def test_rivals_keep_what_they_must():
    rng = np.random.default_rng(0)
    m, head = rng.standard_normal((2, 4, 4, 4)), np.ones((4, 4, 4), dtype=bool)
    rivals = rivals_of(m, None, head, rng)
    assert set(rivals) == {"shuffled", "reversed"}
    assert np.array_equal(np.sort(rivals["shuffled"].ravel()), np.sort(m.ravel()))
    assert np.array_equal(rivals["reversed"], -m)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (("nosuch",), "found 'nosuch'"),
        (("no_such_module:X",), "no_such_module"),
        (("json:nothing",), "nothing in the module json"),
        (("json:JSONDecoder",), "found JSONDecoder"),
    ],
)
def test_a_method_that_is_none_is_told_in_a_sentence(methods, words):
    with pytest.raises(InputError, match=words):
        contestants(methods)


def test_a_rule_that_does_not_exist_is_told():
    with pytest.raises(InputError, match="found 'gold'"):
        BenchmarkPlan(rules=("gold",))


def test_an_own_method_says_what_it_answers_for(tmp_path, monkeypatch):
    (tmp_path / "planted_wrong_kind.py").write_text(
        OWN.replace('name = "mine"', 'name = "mine"\n    answers_for = "all"')
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="answers_for"):
        own_contestant("planted_wrong_kind:Mine")


def test_what_darkens_has_a_negative_derivative():
    stroke = Stroke("x", 1, np.full((2, 2, 2), -1.0), np.ones((2, 2, 2), dtype=bool))
    assert stroke.brightens == -1
