"""Anybody's module is checked as model files are, asked in evaluation mode, and left as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.networks.nets import SwinUNETR
from tiny_network import tiny_unet
from torch import nn

from lesionwise.errors import InputError, ModelFileError, UnsupportedModelError
from lesionwise.models import zoo
from lesionwise.models.statedict import save_model
from lesionwise.network import check_logits, frozen
from lesionwise.segmenter import FixedNormalisation, Segmenter, Spec
from lesionwise.units import predict_case
from lesionwise.windows import WindowGrid, predict

SPEC = Spec("tiny", ("FLAIR", "T1w"), (16, 16, 16))


class Conv(nn.Module):
    def __init__(self, after=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(2, 2, 3, padding=1)
        self.after = after

    def forward(self, x):
        return self.conv(x) if self.after is None else self.after(self.conv(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 3}, "Expected 3 classes from the network UNet, as its spec says, found 2"),
        ({"members": 2}, "Expected 4 classes"),
        ({"channels": ("FLAIR",)}, "does not take 1 channel on a window of 16 x 16 x 16 voxels"),
        ({"window": (16, 16, 15)}, "for a window of that size, found"),
    ],
)
def test_a_module_that_does_not_fit_its_spec_is_refused(changes, message):
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        Segmenter(tiny_unet(), replace(SPEC, **changes))
    assert "\n" not in str(caught.value)


def test_a_window_that_a_file_s_network_cannot_take_is_said_at_loading(tmp_path):
    arguments = {"in_channels": 2, "out_channels": 2, "feature_size": 12, "depths": [1, 1, 1, 1], "spatial_dims": 3}
    save_model(
        tmp_path, SwinUNETR(**arguments), replace(SPEC, window=(40, 64, 64)),
        class_name="monai.networks.nets.SwinUNETR", arguments=arguments,
    )  # fmt: skip
    with pytest.raises(
        ModelFileError, match=r"does not fit its description.*40 x 64 x 64 voxels; it takes one of 64 x 64 x 64"
    ):
        zoo.load_model(tmp_path)


def test_a_scripted_network_is_checked_by_asking_it():
    with pytest.raises(UnsupportedModelError, match="Expected 3 classes"):
        Segmenter(torch.jit.trace(tiny_unet(), torch.zeros(1, 2, 16, 16, 16)), replace(SPEC, classes=3))


def test_training_mode_changes_no_answer_and_no_statistics():
    network, x = tiny_unet(), torch.randn(1, 2, 20, 16, 16)
    grid = WindowGrid.of(SPEC, (20, 16, 16))
    expected = predict(network, x, grid)
    network.train()
    network.model[0].training = False  # a mode of its own, which stays too
    before, modes = {k: v.clone() for k, v in network.state_dict().items()}, [m.training for m in network.modules()]
    assert torch.equal(predict(network, x, grid), expected)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes


def test_frozen_refuses_statistics_of_the_batch_only():
    with (
        pytest.raises(UnsupportedModelError, match="without running statistics"),
        frozen(nn.BatchNorm3d(2, track_running_stats=False)),
    ):
        pass


def test_probabilities_are_noticed(small_case):
    for after, activation, classes, lesion in (
        (nn.Softmax(dim=1), "softmax", 2, 1),
        (lambda z: torch.sigmoid(5 * z - 4)[:, :1], "sigmoid", 1, 0),
    ):
        spec = replace(SPEC, activation=activation, classes=classes, lesion_class=lesion)
        with pytest.raises(UnsupportedModelError, match=f"Expected logits.*leave its last {activation} out"):
            predict_case(Segmenter(Conv(after), spec), small_case)


def test_small_logits_are_no_probabilities():
    check_logits(torch.rand(2, 4, 4, 4), softmax=True)
    check_logits(torch.rand(1, 4, 4, 4) + 0.6, softmax=False)
    check_logits(torch.zeros(1, 4, 4, 4), softmax=False)
    p = torch.softmax(torch.randn(2, 3, 4, 4, 4), dim=1).flatten(0, 1)
    with pytest.raises(UnsupportedModelError, match="adding up to 1"):
        check_logits(p, softmax=True, members=2)


def test_a_network_that_does_not_repeat_itself_is_noticed(small_case):
    noisy = Conv(lambda z: torch.nn.functional.dropout(z, 0.5, training=True))
    with pytest.raises(UnsupportedModelError, match="two answers to one question"):
        predict_case(Segmenter(noisy, SPEC), small_case)


def test_another_precision_is_said(small_case):
    with pytest.raises(
        UnsupportedModelError, match=r"network in float32, found weights in float64: call network\.float"
    ):
        predict_case(Segmenter(tiny_unet().double(), SPEC), small_case)


def test_normalisation_by_fixed_numbers_and_by_a_function(small_case):
    head = small_case.head
    raw = small_case.image.data
    mean, sd = raw[:, head].mean(axis=1), raw[:, head].std(axis=1)
    spec = replace(SPEC, orientation=None, spacing_mm=None)
    by_head = Segmenter(Conv(), spec).place(small_case)
    for given in (
        FixedNormalisation(tuple(map(float, mean)), tuple(map(float, sd))),
        {"mean": list(map(float, mean)), "sd": list(map(float, sd))},
        lambda image, inside: (image - mean[:, None, None, None]) / sd[:, None, None, None] * inside,
    ):
        placed = Segmenter(Conv(), replace(spec, normalisation=given)).place(small_case)
        assert torch.allclose(placed.input, by_head.input, atol=1e-4)
        assert torch.allclose(placed.scale, torch.ones(2), atol=1e-4)
    doubled = Segmenter(Conv(), replace(spec, normalisation=FixedNormalisation((0.0, 0.0), (50.0, 1.0)))).place(
        small_case
    )
    assert torch.allclose(doubled.scale, torch.tensor([sd[0] / 50, sd[1]]).float(), rtol=1e-4)
    with pytest.raises(InputError, match="stretch and shift FLAIR by constants"):
        Segmenter(Conv(), replace(spec, normalisation=lambda image, inside: np.clip(image, 0, mean.mean()))).place(
            small_case
        )
    with pytest.raises(InputError, match="of shape"):
        Segmenter(Conv(), replace(spec, normalisation=lambda image, inside: image[:1])).place(small_case)
