"""A cross-validated model: nobody is judged by a network that has seen them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.volume import Case, ScanName, Volume
from lesionwise.models.folds import CrossValidated, content_hash, save_folds
from lesionwise.models.statedict import save_model
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import Segmenter, Spec, WithZeros, without_channels

ARGUMENTS = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "norm": "batch",
    "num_res_units": 0,
}
CLASS = "monai.networks.nets.UNet"
SPEC = Spec(name="tiny", channels=("FLAIR", "T1w"), window=(16, 16, 16), optional_channels=("T1w",))


def network(seed):
    from monai.networks.nets import UNet

    torch.manual_seed(seed)
    return UNet(**ARGUMENTS).eval()


def case_of(subject, *, seed=0, channels=("FLAIR", "T1w")):
    data = np.random.default_rng(seed).normal(size=(2, 16, 16, 16)).astype(np.float32)[: len(channels)]
    return Case(Volume(data, np.eye(4), channels), np.ones((16, 16, 16), dtype=bool), name=ScanName(subject))


@pytest.fixture(scope="module")
def model():
    parts = tuple(Segmenter(network(k), replace(SPEC, threshold=0.3 + 0.1 * k)) for k in range(3))
    contents = ((content_hash(case_of("a", seed=1)),), (content_hash(case_of("b", seed=2)),), ())
    return CrossValidated(parts, (("a",), ("b",), ("c",)), contents)


@pytest.fixture
def run(tmp_path, model):
    for fold, part in enumerate(model.parts):
        save_model(tmp_path / f"fold-{fold}", part.network, part.spec, class_name=CLASS, arguments=ARGUMENTS)
    (tmp_path / "folds.json").write_text('{"held_out": [["a"], ["b"], ["c"]], "contents": [[], [], []]}')
    return tmp_path


def test_a_patient_is_asked_of_the_network_that_left_them_out(model):
    assert [model.fold_of(case_of(name, seed=9)) for name in ("a", "b", "c", "stranger")] == [0, 1, 2, None]
    chosen = model.for_case(case_of("b", seed=9))
    assert chosen.network is model.parts[1].network
    assert "fold 1" in chosen.spec.card["chosen"]


def test_a_known_scan_under_another_name_is_recognised_by_its_voxels(model):
    assert model.fold_of(case_of("renamed", seed=2)) == 1


def test_the_voxels_speak_before_the_name(model):
    # the scan of patient b, wrongly called a: network 0 has seen it
    assert model.fold_of(case_of("a", seed=2)) == 1


def test_a_stranger_gets_the_mean_probability_of_all(model):
    stranger = model.for_case(case_of("stranger", seed=9))
    assert stranger.spec.members == 3
    assert stranger.spec.threshold == pytest.approx(0.4)
    x = torch.randn(1, 2, 16, 16, 16)
    expected = torch.cat([part.network(x) for part in model.parts], dim=1)
    assert torch.equal(stranger.network(x), expected)


def test_a_run_folder_is_a_model_and_one_fold_can_be_asked(run, model):
    loaded = load_model(run)
    assert isinstance(loaded, CrossValidated)
    assert loaded.fingerprint == replace(model, contents=((), (), ())).fingerprint
    assert loaded.fingerprint != model.fingerprint, "who is asked decides the map"
    one = load_model(f"{run}?fold=2")
    x = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(one.network(x), model.parts[2].network(x))
    with pytest.raises(InputError, match="fold=0 to fold=2"):
        load_model(f"{run}?fold=3")


def test_one_file_holds_all_networks_in_half_precision(tmp_path, model):
    path = save_folds(tmp_path / "x.folds.npz", model, class_name=CLASS, arguments=ARGUMENTS)
    loaded = load_model(path)
    assert loaded.held_out == model.held_out
    assert loaded.contents == model.contents
    assert [p.spec.threshold for p in loaded.parts] == [p.spec.threshold for p in model.parts]
    x = torch.randn(1, 2, 16, 16, 16)
    assert torch.allclose(loaded.parts[1].network(x), model.parts[1].network(x), atol=5e-3)


def test_an_unfinished_run_says_which_fold_is_missing(run):
    (run / "fold-1" / "model.toml").unlink()
    with pytest.raises(ModelFileError, match="fold-1"):
        load_model(run)


def test_a_damaged_file_is_one_sentence(tmp_path):
    (tmp_path / "x.folds.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(tmp_path / "x.folds.npz")


def test_without_an_optional_channel_the_numbers_are_those_of_zeros():
    whole = Segmenter(network(5), SPEC)
    less = whole.for_case(case_of("x", channels=("FLAIR",)))
    assert less.spec.channels == ("FLAIR",)
    x = torch.randn(1, 1, 16, 16, 16)
    both = torch.cat([x, torch.zeros_like(x)], dim=1)
    assert torch.allclose(less.network(x), whole.network(both), atol=1e-6)
    assert not any(isinstance(m, WithZeros) for m in less.network.modules())  # the input layer itself was cut
    assert whole.network(both).shape == (1, 2, 16, 16, 16)  # and the model's own network was left alone


def test_a_network_whose_input_is_read_by_something_else_is_given_zeros():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0] - x[:, 1], x[:, 0] + x[:, 1]], dim=1)

    less = without_channels(Segmenter(Odd(), SPEC), ["T1w"])
    x = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(less.network(x), torch.cat([x, x], dim=1))


def test_all_channels_present_is_the_model_itself():
    whole = Segmenter(network(5), SPEC)
    assert whole.for_case(case_of("x")) is whole


def test_a_channel_that_is_not_optional_is_still_asked_for():
    model = Segmenter(network(5), replace(SPEC, optional_channels=()))
    case = case_of("x", channels=("FLAIR",))
    with pytest.raises(InputError, match="T1w is missing"):
        model.for_case(case).place(case)
