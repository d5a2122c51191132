"""MONAI bundles: network, windows and preprocessing as the bundle says, and nothing that runs unasked."""

import json

import numpy as np
import pytest
import torch
from monai import transforms
from monai.data import MetaTensor
from monai.networks.nets import UNet
from monai.transforms import Compose, Orientation, Spacing

from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.volume import Case, Volume
from lesionwise.models import zoo
from lesionwise.models.description import describe
from lesionwise.models.expressions import worked_out
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
        ({**inference["network_def"], "channels": "$list((4, 8))"}, r"the expression \$list\(\(4, 8\)\)"),
        ({"_target_": "scripts.net.Evil"}, r"the class scripts\.net\.Evil"),
        ({"_target_": "os.system", "command": "true"}, r"the class os\.system"),
    ]:
        write(root, metadata, {**inference, "network_def": definition})
        with pytest.raises(ModelFileError, match=message):
            zoo.load_model(root)
    write(root, metadata, {**inference, "network_def": {**inference["network_def"], "channels": "$list((4, 8))"}})
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


def test_arithmetic_on_literals_is_worked_out_and_nothing_else(bundle):
    root, network, metadata, inference = bundle
    definition = {**inference["network_def"], "channels": "$[2 * 2] + [4 + 4]", "strides": "$[@stride] * 1"}
    inferer = {**inference["inferer"], "roi_size": "$[@edge]*3"}
    write(root, metadata, {**inference, "network_def": definition, "stride": 2, "edge": 16, "inferer": inferer})
    x = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(zoo.load_model(root).network(x), network(x))
    for text in ("__import__('os')", "[32] * 10**9", "[0] * 100000", "(lambda: 1)()", "[x for x in [1]]", "a.b", "1 +"):
        with pytest.raises(ValueError, match=r"arithmetic|size|length"):
            worked_out(text)
    assert worked_out("(1.5, -2, [True, None, 'x'] )") == [1.5, -2, [True, None, "x"]]


def test_full_module_paths_and_obsolete_arguments_of_old_configurations(bundle):
    root, network, metadata, inference = bundle
    definition = {**inference["network_def"], "_target_": "monai.networks.nets.unet.UNet", "img_size": "$[16]*3"}
    write(root, metadata, {**inference, "network_def": definition})
    x = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(zoo.load_model(root).network(x), network(x))
    for target in ("monai.networks.nets.vnet.UNet", "monai.networks.nets.unet.nn", "monai.networks.nets.unet.Nope"):
        write(root, metadata, {**inference, "network_def": {**definition, "_target_": target}})
        with pytest.raises(ModelFileError, match="Expected a network class"):
            zoo.load_model(root)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("crop_first", [True, False])
@pytest.mark.parametrize("margin", [{}, {"margin": 4}, {"margin": 4, "allow_smaller": True}])
def test_the_crop_to_the_foreground_is_monais_and_its_way_back_the_adjoint(affine, crop_first, margin):
    case = a_case(affine)
    geometry = [{"_target_": "Orientationd", "axcodes": "RAS"}, {"_target_": "Spacingd", "pixdim": [1.3, 1.0, 0.8]}]
    crop = {"_target_": "CropForegroundd", "source_key": "image", **margin}
    score = {"_target_": "NormalizeIntensityd", "channel_wise": True}
    items = [geometry[0], crop, geometry[1], score] if crop_first else [*geometry, crop, score]
    placement = monai_steps(items, where="x").place(case, ("FLAIR", "T1w"))
    orientation, spacing = Orientation("RAS", labels=None), Spacing([1.3, 1.0, 0.8], mode="bilinear")
    own, last = transforms.CropForeground(**margin), transforms.NormalizeIntensity(channel_wise=True)
    chain = Compose([orientation, own, spacing, last] if crop_first else [orientation, spacing, own, last])
    expected = chain(MetaTensor(torch.from_numpy(case.image.data), affine=torch.from_numpy(affine)))
    assert placement.input.shape[1:] == expected.shape
    assert torch.allclose(placement.input[0], expected.as_tensor().float(), atol=2e-4)
    x, y = torch.randn(case.image.shape).double(), torch.randn(expected.shape[1:]).double()
    there, back = placement.to_network.forward(x), placement.to_network.adjoint(y)
    assert float((there * y).sum()) == pytest.approx(float((x * back).sum()), rel=1e-9)
    seen = placement.to_scan.forward(torch.ones(expected.shape[1:]).double())
    assert torch.allclose(seen[torch.from_numpy(case.head)], torch.ones(int(case.head.sum())).double(), atol=0.51)
    assert not bool((seen < -1e-9).any())


def test_a_crop_that_asks_for_more_is_refused():
    for more in ({"k_divisible": 16}, {"select_fn": "$lambda x: x > 3"}, {"channel_indices": 0}, {"margin": [1, 2, 3]}):
        with pytest.raises(ModelFileError, match="found more"):
            monai_steps([{"_target_": "CropForegroundd", "source_key": "image", **more}], where="x")


def test_channels_and_classes_by_option(bundle):
    root, _, metadata, inference = bundle
    for query, message in [
        ("?channels=FLAIR,FLAIR", "FLAIR twice"),
        ("?channels=FLAIR", "2 channel names"),
        ("?lesion=x", "found x"),
    ]:
        with pytest.raises((ModelFileError, InputError), match=message):
            zoo.load_model(f"{root}{query}")
    metadata["network_data_format"]["inputs"]["image"]["channel_def"] = {"0": "T1", "1": "MPRAGE"}
    write(root, metadata, inference)
    with pytest.raises(InputError, match=r"T1w twice in T1w, T1w: name them in order with \?channels="):
        zoo.load_model(root)
    metadata["network_data_format"]["outputs"]["pred"] = {
        "num_channels": 3, "channel_def": {"0": "background", "1": "core", "2": "oedema"},
    }  # fmt: skip
    write(root, metadata, {**inference, "network_def": {**inference["network_def"], "out_channels": 3}})
    torch.save(UNet(**{**ARGUMENTS, "out_channels": 3}).state_dict(), root / "models" / "model.pt")
    model = zoo.load_model(f"{root}?channels=FLAIR,T1w&lesion=core,2")
    assert model.spec.lesion_classes == (1, 2)
