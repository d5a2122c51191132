"""LST-AI: the architecture of its package, logits before the sigmoid, its preprocessing."""

import numpy as np
import pytest
import torch

from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.volume import Case, Volume
from lesionwise.models import lstai, zoo
from lesionwise.models.description import describe
from lesionwise.windows import WindowGrid, predict, probability_on_scan

SMALL = {"in_channels": 2, "n_conv_blocks": 2, "n_filters": 4, "n_classes": 1}
# lst_ai.model.NNUNet3D.shipped(...) of lst-ai 2.0.0rc1: arguments, number of tensors, number of weights.
SHIPPED = {
    "A": ({"n_filters": 28, "bottleneck_filters": 168, "ds_layers": (-2, -3)}, 102, 14356443),
    "B": ({"n_filters": 24, "bottleneck_filters": 144, "ds_layers": (-2,)}, 100, 10548458),
    "C": ({"n_filters": 32, "bottleneck_filters": 160, "ds_layers": (-2, -3)}, 102, 17486211),
}


def a_case(shape=(21, 18, 24)):
    rng = np.random.default_rng(0)
    head = np.zeros(shape, dtype=bool)
    head[3:-3, 3:-3, 4:-3] = True
    data = (rng.gamma(4.0, 15.0, size=(2, *shape)) * head).astype(np.float32)
    return Case(Volume(data, np.eye(4), ("T1w", "FLAIR")), head)


@pytest.fixture
def weights(tmp_path):
    for n, name in enumerate("ABC"):
        torch.manual_seed(n)
        config = {**SMALL, "ds_layers": [-2] if name == "B" else []}
        state = lstai.Member(**config).state_dict()
        torch.save({"config": config, "state_dict": state}, tmp_path / f"UNet3D_MS_final_mdl{name}.pt")
    return tmp_path


@pytest.mark.parametrize("name", "ABC")
def test_architecture_is_that_of_the_shipped_weights(name):
    arguments, tensors, numbers = SHIPPED[name]
    with torch.device("meta"):
        state = lstai.Member(n_conv_blocks=5, **arguments).state_dict()
    assert len(state) == tensors
    assert sum(value.numel() for value in state.values()) == numbers


def test_logits_are_those_before_the_packages_sigmoid():
    theirs = pytest.importorskip("lst_ai.model")
    torch.manual_seed(0)
    for layers in ((), (-2,)):
        network = theirs.NNUNet3D(**SMALL, ds_layers=layers).eval()
        ours = lstai.Member(**SMALL, ds_layers=layers).eval()
        ours.load_state_dict(network.state_dict())
        x = torch.rand(1, 2, 16, 16, 16)
        expected = network(x)
        expected = expected[0] if isinstance(expected, list) else expected
        assert torch.allclose(torch.sigmoid(ours(x)), expected, atol=1e-6)


def test_ensemble_is_the_mean_probability(weights):
    case = a_case()
    members = [lstai.read_member(weights / f"UNet3D_MS_final_mdl{name}.pt") for name in "ABC"]
    model = lstai.LstAi.of(members, window=(16, 16, 16))
    placement = model.place(case)
    grid = WindowGrid.of(model.spec, (16, 16, 16))
    p = probability_on_scan(predict(model.network, placement.input, grid), placement, model.spec)
    with torch.no_grad():
        mean = torch.stack([torch.sigmoid(member(placement.input))[0, 0] for member in members]).mean(0)
    expected = torch.zeros(21, 18, 24)
    expected[3:19, 1:17, 4:20] = mean
    assert torch.allclose(p, expected, atol=1e-6)


def test_preprocessing_is_clip_and_scale_of_the_centre():
    """As in lst_ai.segment: crop, clip to percentiles of the non-zero voxels, subtract min, divide by max."""
    case = a_case()
    model = lstai.LstAi.of([lstai.Member(**SMALL)], window=(16, 16, 16))
    placement = model.place(case)
    for n, channel in enumerate(("FLAIR", "T1w")):
        centre = case.image.channel(channel)[3:19, 1:17, 4:20].astype(float)
        brain = centre != 0
        low, high = np.percentile(centre[brain], (0.5, 99.5))
        clipped = np.clip(centre, low, high)
        expected = (clipped - clipped[brain].min()) / (clipped - clipped[brain].min())[brain].max() * brain
        assert np.allclose(placement.input[0, n].numpy(), expected, atol=1e-6)
        changed = brain & (centre > low) & (centre < high)
        assert placement.passes[n].numpy()[changed].all()
        assert not placement.passes[n].numpy()[~brain].any()
    pulled = placement.pull_back(torch.ones(2, 16, 16, 16))
    assert pulled.shape == (2, 21, 18, 24)
    assert float(pulled[0, 10, 9, 12]) == pytest.approx(float(placement.scale[0]))


def test_named_model_is_found_and_what_is_missing_is_said(weights, monkeypatch, tmp_path):
    model = zoo.load_model(f"lst-ai?weights={weights}")
    assert model.spec.members == 3
    assert zoo.load_model(f"lst-ai?weights={weights}&member=B").spec.members == 1
    assert describe(model).preprocessing[0].startswith("expects MNI space")
    monkeypatch.setenv("LST_AI_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    weights_there = tmp_path / "data" / "model"
    weights_there.mkdir()
    (weights / "UNet3D_MS_final_mdlA.pt").rename(weights_there / "UNet3D_MS_final_mdlA.pt")
    assert zoo.load_model("lst-ai?member=A").spec.members == 1
    monkeypatch.delenv("LST_AI_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    with pytest.raises(ModelFileError, match=r"lst_ai/model, found none"):
        zoo.load_model("lst-ai")
    with pytest.raises(InputError, match="A, B, C or ensemble"):
        zoo.load_model("lst-ai?member=D")
    coarse = a_case()
    coarse = Case(Volume(coarse.image.data, np.diag([2.0, 1, 1, 1]), coarse.image.channels), coarse.head)
    with pytest.raises(InputError, match="MNI space with 1 mm voxels, found 2 x 1 x 1"):
        model.place(coarse)
