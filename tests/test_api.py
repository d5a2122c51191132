"""What people write in Python: numbers, names and sequences are understood, slips get one sentence before any computing."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import lesionwise as lw
from lesionwise.api import method_of, selection_of, target_of
from lesionwise.errors import InputError


@pytest.fixture(scope="module")
def result(bright_model, small_case):
    return lw.explain(bright_model, small_case, method="gradient", lesions="largest:2", device="cpu")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("all", "all"),
        (3, "3"),
        (np.int64(3), "3"),
        ([1, 4], "1,4"),
        ((4,), "4"),
        (np.array([2, 5]), "2,5"),
        (range(1, 3), "1,2"),
    ],
)
def test_lesions_in_every_form(given, text):
    assert selection_of(given) == text


@pytest.mark.parametrize("given", [0, -1, [], [1.5], [True], True, 2.0, None, [[1]]])
def test_what_are_no_lesions(given):
    with pytest.raises(InputError, match="a number or numbers from 1 on"):
        selection_of(given)


def test_methods_by_name_with_samples():
    assert method_of("ig") == lw.IntegratedGradients()
    assert method_of("ig", samples=7).n_steps == 7
    assert method_of(samples=8) == lw.SmoothGrad(n_samples=8)
    assert method_of(lw.SmoothGrad(reduce="max"), samples=3) == lw.SmoothGrad(reduce="max", n_samples=3)
    assert set(lw.METHODS) >= {"smoothgrad", "ig", "gradcampp"}
    for given, message in [
        (lw.SmoothGrad, r"such as SmoothGrad\(\), found the class itself: call it"),
        ("lime", "a method among smoothgrad, .* found 'lime'"),
        (3, "found int 3"),
    ]:
        with pytest.raises(InputError, match=message):
            method_of(given)
    with pytest.raises(InputError, match="gradient takes no samples"):
        method_of("gradient", samples=3)
    with pytest.raises(InputError, match="at least 1, found 0"):
        method_of(samples=0)


def test_slips_are_told_before_the_prediction(small_case):
    with pytest.raises(InputError, match=r"Expected a model of lw.load_model"):
        lw.explain("builtin", small_case)
    with pytest.raises(InputError, match="Expected a target among log_odds"):
        target_of(3)
    with pytest.raises(InputError, match="call it"):
        target_of(Doubled)


def test_a_slip_in_an_option_is_told(bright_model, small_case):
    for arguments, message in [
        ({"conectivity": 6}, "found conectivity"),
        ({"method": lw.SmoothGrad}, "call it"),
        ({"lesions": [0]}, "from 1 on"),
        ({"target": "odds"}, "log_odds, logit, probability"),
    ]:
        with pytest.raises(InputError, match=message):
            lw.explain(bright_model, small_case, **arguments)
    with pytest.raises(InputError, match=r"Expected a case of lw.read_case, found str"):
        lw.explain(bright_model, "flair.nii.gz")


class Doubled(lw.AbstractTarget):
    name, unit = "doubled", "twice the logit"
    factor = 2.0

    def value(self, logits, spec):
        return self.factor * logits[spec.lesion_classes[0]]

    def is_linear(self, spec):
        return True


def test_a_target_of_ones_own_is_saved_and_resumed_by_its_code(bright_model, small_case, tmp_path, result):
    said = []
    arguments = {"method": "gradient", "lesions": "largest:1", "device": "cpu", "out": tmp_path}
    one = lw.explain(bright_model, small_case, target=Doubled(), **arguments)
    (label,) = one.maps
    assert one.maps[label].provenance["Target"] == "doubled"
    assert 'target = "doubled"' in (tmp_path / "config.toml").read_text()
    lw.explain(bright_model, small_case, target=Doubled(), announce_fn=said.append, **arguments)
    assert any("are there already" in sentence for sentence in said)
    said.clear()
    tripled = type("Doubled", (Doubled,), {"factor": 3.0, "value": lambda self, logits, spec: 3 * logits[1]})
    again = lw.explain(bright_model, small_case, target=tripled(), announce_fn=said.append, **arguments)
    assert not any("are there already" in sentence for sentence in said)
    assert np.allclose(again.maps[label].data, 1.5 * one.maps[label].data, atol=1e-6)


@dataclass(frozen=True)
class PlainGradient(lw.AbstractInputMethod):
    name = "plaingradient"

    def units(self, target):
        return f"{target.unit} per SD"

    def attribute(self, function, x):
        (gradient,) = torch.autograd.grad(function(x).sum(), x)
        return gradient


def test_a_method_of_ones_own_is_twenty_lines(bright_model, small_case, result):
    own = lw.explain(bright_model, small_case, method=PlainGradient(), lesions=list(result.maps), device="cpu")
    for label, expected in result.maps.items():
        shape = small_case.image.shape
        difference = own.maps[label].on_grid(shape) - expected.on_grid(shape)
        assert np.abs(difference).max() < 1e-5 * np.abs(expected.data).max()
        row = own.lesions.set_index("lesion").loc[label]
        assert row["target_mean"] == pytest.approx(
            result.lesions.set_index("lesion").loc[label, "target_mean"], rel=1e-4
        )
        assert row["mean_in_FLAIR"] > 0


def test_one_lesion_s_target_is_a_function(result, bright_model, small_case):
    label = next(iter(result.maps))
    function, x = result.target(label), result.input.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x).sum(), x)
    shape = small_case.image.shape
    expected = result.maps[label].on_grid(shape)
    assert np.abs(result.on_scan(gradient) - expected).max() < 1e-5 * np.abs(expected).max()
    mask = result.explained.labels == label
    by_mask = lw.InstanceTarget(bright_model.network, bright_model.spec, result.placement, mask)
    assert torch.allclose(by_mask(result.input), function(result.input))
    with pytest.raises(InputError, match=r"Expected one of the lesions .* found 999"):
        result.target(999)
    with pytest.raises(InputError, match="a mask of the scan's shape"):
        lw.InstanceTarget(bright_model.network, bright_model.spec, result.placement, np.zeros(shape, dtype=bool))


def test_the_target_is_asked_in_evaluation_mode(bright_model, small_case, result):
    network = torch.nn.Sequential(bright_model.network, torch.nn.Dropout(0.5))
    network.train()
    label = next(iter(result.maps))
    function = lw.InstanceTarget(network, bright_model.spec, result.placement, result.explained.labels == label)
    assert torch.allclose(function(result.input), result.target(label)(result.input))
    assert network.training


@pytest.mark.filterwarnings("ignore:Setting backward", "ignore:Input Tensor")
def test_captum_rules_that_do_nothing_here_say_so(result):
    captum = pytest.importorskip("captum.attr")
    label = next(iter(result.maps))
    with pytest.warns(
        UserWarning, match=r"GuidedBackprop changes .* ReLU layers only, and this network has none \(Tanh\)"
    ):
        captum.GuidedBackprop(result.target(label)).attribute(result.input.clone().requires_grad_())


def test_reprs_are_one_line(result, small_case):
    for value in (result, small_case, small_case.image, next(iter(result.maps.values()))):
        assert len(repr(value)) < 220, repr(value)
        assert "\n" not in repr(value)
    assert "FLAIR" in repr(small_case)
    assert "explained by gradient" in repr(result)
