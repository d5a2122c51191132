"""MONAI bundles: network, windows and preprocessing as the bundle says, and nothing that runs unasked."""

import json

import numpy as np
import pytest
import torch
from monai import transforms
from monai.data import MetaTensor
from monai.networks.nets import UNet
from monai.transforms import Compose, Orientation, Spacing

from lesionwise.errors import ModelFileError
from lesionwise.geometry.volume import Case, Volume
from lesionwise.models import zoo
from lesionwise.models.description import describe
from lesionwise.models.preprocessing import monai_steps

ARGUMENTS = {"spatial_dims": 3, "in_channels": 2, "out_channels": 2, "channels": [4, 8], "strides": [2]}
AFFINES = [np.diag([-1.0, 1.0, 1.0, 1.0]), np.array([[0, -1.2, 0, 4], [1.1, 0, 0, 2], [0, 0, 0.9, 1], [0, 0, 0, 1.0]])]


def a_case(affine):
    rng = np.random.default_rng(0)
    data = rng.gamma(4.0, 15.0, size=(2, 14, 17, 12)).astype(np.float32)
    head = np.zeros((14, 17, 12), dtype=bool)
    head[2:-2, 3:-2, 2:-3] = True
    data[:, ~head] = 0
    return Case(Volume(data, affine, ("FLAIR", "T1w")), head)


@pytest.fixture
def bundle(tmp_path):
    torch.manual_seed(0)
    network = UNet(**ARGUMENTS).eval()
    for folder in ("configs", "models"):
        (tmp_path / folder).mkdir()
    torch.save(network.state_dict(), tmp_path / "models" / "model.pt")
    channel_def = {"0": "FLAIR", "1": "T1"}
    image = {"type": "image", "num_channels": 2, "spatial_shape": [16, 16, 16], "channel_def": channel_def}
    pred = {"num_channels": 2, "channel_def": {"0": "background", "1": "lesion"}}
    metadata = {
        "name": "tiny",
        "version": "0.1",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }
    inference = {
        "image_key": "image",
        "window": [16, 16, 16],
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": "UNet", **ARGUMENTS, "norm": "@norm"},
        "norm": "instance",
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [1.3, 1.0, 0.8], "mode": "bilinear"},
                {"_target_": "NormalizeIntensityd", "keys": "@image_key", "nonzero": True, "channel_wise": True},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@window", "overlap": 0.5, "mode": "gaussian"},
        "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Activationsd", "softmax": True}]},
    }
    write(tmp_path, metadata, inference)
    return tmp_path, network, metadata, inference


def write(root, metadata, inference):
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (root / "configs" / "inference.json").write_text(json.dumps(inference))


def test_bundle_is_read_as_data(bundle):
    root, network, *_ = bundle
    model = zoo.load_model(root)
    x = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(model.network(x), network(x))
    assert model.spec.channels == ("FLAIR", "T1w")
    assert (model.spec.window, model.spec.overlap, model.spec.blending) == ((16, 16, 16), 0.5, "gaussian")
    assert describe(model).preprocessing[-1] == "z-scored over non-zero voxels"


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("NormalizeIntensity", {"nonzero": True, "channel_wise": True}),
        ("NormalizeIntensity", {}),
        ("ScaleIntensity", {"minv": -1.0, "maxv": 1.0, "channel_wise": True}),
        ("ScaleIntensityRange", {"a_min": 10, "a_max": 90, "b_min": 0, "b_max": 1, "clip": True}),
        (
            "ScaleIntensityRangePercentiles",
            {"lower": 1, "upper": 99, "b_min": 0, "b_max": 1, "clip": True, "channel_wise": True},
        ),
    ],
)
@pytest.mark.parametrize("resample_first", [True, False])
def test_preprocessing_equals_monais(affine, name, arguments, resample_first):
    items, own = [{"_target_": f"{name}d", **arguments}], getattr(transforms, name)(**arguments)

    case = a_case(affine)
    geometry = [
        {"_target_": "Orientationd", "axcodes": "RAS"},
        {"_target_": "monai.transforms.Spacingd", "pixdim": [1.3, 1.0, 0.8]},
    ]
    steps = monai_steps([*geometry, *items] if resample_first else [*items, *geometry], where="x")
    placement = steps.place(case, ("FLAIR", "T1w"))
    places = [Orientation("RAS", labels=None), Spacing([1.3, 1.0, 0.8], mode="bilinear")]
    chain = Compose([*places, own] if resample_first else [own, *places])
    expected = chain(MetaTensor(torch.from_numpy(case.image.data), affine=torch.from_numpy(affine)))
    assert placement.input.shape[1:] == expected.shape
    assert torch.allclose(placement.input[0], expected.as_tensor().float(), atol=2e-4)
    ones = placement.to_scan.forward(torch.ones(expected.shape[1:]))
    assert torch.allclose(ones, torch.ones(case.image.shape))


def test_code_is_refused_until_it_is_trusted(bundle):
    root, network, metadata, inference = bundle
    for definition, message in [
        ({**inference["network_def"], "channels": "$[4, 8]"}, r"the expression \$\[4, 8\]"),
        ({"_target_": "scripts.net.Evil"}, r"the class scripts\.net\.Evil"),
        ({"_target_": "os.system", "command": "true"}, r"the class os\.system"),
    ]:
        write(root, metadata, {**inference, "network_def": definition})
        with pytest.raises(ModelFileError, match=message):
            zoo.load_model(root)
    write(root, metadata, {**inference, "network_def": {**inference["network_def"], "channels": "$[4, 8]"}})
    x = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(zoo.load_model(root, trust=True).network(x), network(x))
    code = "$monai.networks.nets.UNet(spatial_dims=3, in_channels=2, out_channels=2, channels=[4, 8], strides=[2])"
    write(root, metadata, {**inference, "imports": ["$import monai"], "network_def": code})
    with pytest.raises(ModelFileError, match=r"the expression \$monai.*--trust"):
        zoo.load_model(root)
    assert torch.equal(zoo.load_model(root, trust=True).network(x), network(x))


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_bundle_without_weights_is_read(bundle):
    root, network, *_ = bundle
    x = torch.randn(1, 2, 16, 16, 16)
    torch.jit.save(torch.jit.trace(network, x), root / "models" / "model.ts")
    (root / "models" / "model.pt").unlink()
    assert torch.allclose(zoo.load_model(root).network(x), network(x), atol=1e-6)
    (root / "models" / "model.ts").unlink()
    with pytest.raises(ModelFileError, match="found neither"):
        zoo.load_model(root)


def test_what_the_bundle_leaves_open_is_asked_for(bundle):
    root, _, metadata, inference = bundle
    metadata["network_data_format"]["inputs"]["image"]["channel_def"] = {"0": "image"}
    write(root, metadata, inference)
    with pytest.raises(ModelFileError, match="does not say what its 2 input channels are"):
        zoo.load_model(root)
    assert zoo.load_model(f"{root}?channels=T1w,FLAIR").spec.channels == ("T1w", "FLAIR")
    (root / "lesionwise.toml").write_text('[spec]\nchannels = ["FLAIR", "T2w"]\n')
    assert zoo.load_model(root).spec.channels == ("FLAIR", "T2w")
    write(root, metadata, {**inference, "preprocessing": [{"_target_": "Histogramd"}]})
    with pytest.raises(ModelFileError, match="Histogramd"):
        zoo.load_model(root)
