"""Weights and a TOML: what is written is read back; what does not fit is said in one sentence."""

import pickle

import pytest
import torch
from tiny_network import ARGUMENTS, tiny_unet

from lesionwise.errors import ModelFileError
from lesionwise.models import zoo
from lesionwise.models.description import describe
from lesionwise.models.statedict import save_model
from lesionwise.segmenter import Spec

SPEC = Spec("tiny", ("FLAIR", "T1w"), (16, 16, 16), spacing_mm=None, threshold=0.3, card={"summary": "a test net"})


@pytest.fixture
def network():
    return tiny_unet()


@pytest.fixture
def folder(tmp_path, network):
    return save_model(tmp_path / "net", network, SPEC, class_name="monai.networks.nets.UNet", arguments=ARGUMENTS)


def test_written_model_is_read_back_with_the_same_logits_and_spec(folder, network):
    model = zoo.load_model(folder)
    x = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(model.network(x), network(x))
    assert model.spec == SPEC
    assert model.fingerprint == zoo.load_model(folder / "model.toml").fingerprint
    assert model.fingerprint == zoo.load_model(folder / "model.safetensors").fingerprint


def test_a_pickled_state_dict_with_wrapper_prefixes_is_read(folder, network, tmp_path):
    state = {f"_orig_mod.module.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "model.pt")
    (folder / "model.safetensors").unlink()
    assert torch.equal(zoo.load_model(folder).network(x := torch.randn(1, 2, 16, 16, 16)), network(x))


def test_in_place_activations_are_switched_off(folder):
    assert not any(getattr(m, "inplace", False) for m in zoo.load_model(folder).network.modules())


def test_differences_are_named(folder, network):
    state = dict(network.state_dict())
    first = next(iter(state))
    state["stranger"] = state.pop(first)
    torch.save(state, folder / "model.pt")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=rf"1 missing \({first}\); 1 left over \(stranger\)"):
        zoo.load_model(folder)


def test_nothing_runs_on_loading(folder):
    class Bomb:
        def __reduce__(self):
            return (eval, ("1/0",))

    with open(folder / "model.pt", "wb") as stream:
        pickle.dump({"w": Bomb()}, stream, protocol=2)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"tensors and plain values alone, found objects of .*eval"):
        zoo.load_model(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'class = "monai.networks.nets.UNet"',
            'class = "os.system"',
            "Expected a network class of monai.networks.nets",
        ),
        ('class = "monai.networks.nets.UNet"', 'class = "monai.networks.nets.Nope"', "Expected a network class"),
        ("in_channels = 2", "in_channels = 3", "do not fit UNet: 1 of another shape|of another shape"),
        ("classes = 2", "classes = 3", "Expected 3 classes"),
        ("threshold = 0.3", "treshold = 0.3", "found treshold"),
        ('name = "tiny"', "", "name is missing"),
        ("spatial_dims = 3", 'pretrained = "x"', "found pretrained"),
        ("[spec]", "[spec", "cannot be parsed at line"),
    ],
)
def test_a_wrong_description_gets_one_sentence(folder, old, new, message):
    file = folder / "model.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ModelFileError, match=message) as caught:
        zoo.load_model(folder)
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files_get_one_sentence(tmp_path, folder):
    with pytest.raises(ModelFileError, match="no file or folder"):
        zoo.load_model(tmp_path / "nothing")
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(ModelFileError, match=r"none of these"):
        zoo.load_model(tmp_path / "text.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match="nothing in it"):
        zoo.load_model(tmp_path / "empty")
    (folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    with pytest.raises(ModelFileError, match=r"alone.toml beside it"):
        zoo.load_model(tmp_path / "alone.safetensors")
    with pytest.raises(ModelFileError, match="Expected the model's weights in"):
        zoo.load_model(folder)


def test_networks_that_return_lists_give_full_resolution(tmp_path):
    from monai.networks.nets import BasicUNetPlusPlus

    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "features": [4, 4, 4, 4, 4, 4]}
    network = BasicUNetPlusPlus(**arguments).eval()
    spec = Spec("nested", ("FLAIR",), (32, 32, 32))
    save_model(tmp_path, network, spec, class_name="monai.networks.nets.BasicUNetPlusPlus", arguments=arguments)
    x = torch.randn(1, 1, 32, 32, 32)
    assert torch.equal(zoo.load_model(tmp_path).network(x), network(x)[-1])


def test_description_lists_layers_without_running(folder):
    description = describe(zoo.load_model(folder))
    assert description.cam
    assert ("Conv3d", (1, 2, 16, 16, 16)) in {(layer.kind, layer.output) for layer in description.layers} or (
        "ConvTranspose3d",
        (1, 2, 16, 16, 16),
    ) in {(layer.kind, layer.output) for layer in description.layers}
    rows = dict(description.rows())
    assert rows["channels"] == "FLAIR, T1w"
    assert rows["summary"] == "a test net"
    assert description.parameters > 0
