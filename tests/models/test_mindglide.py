"""MindGlide: its package's architecture and preprocessing; lesion class 18."""

import numpy as np
import pytest
import torch
from monai.transforms import NormalizeIntensity

from lesionwise.errors import ModelFileError
from lesionwise.geometry.volume import Case, Volume
from lesionwise.models import mindglide, zoo


def a_case(affine, shape=(15, 18, 12)):
    rng = np.random.default_rng(0)
    head = np.zeros(shape, dtype=bool)
    head[2:-3, 3:-2, 1:-2] = True
    data = (rng.gamma(4.0, 15.0, size=(1, *shape)) * head).astype(np.float32)
    return Case(Volume(data, affine, ("FLAIR",)), head)


def theirs(case, sizes, anisotropic):
    """PreprocessAnisotropic of mindglide 1.3 on an image that is RAS already."""
    resize = pytest.importorskip("skimage.transform").resize
    image = case.image.data[0][2:-3, 3:-2, 1:-2].astype(np.float32)
    shape = (np.array(sizes) * np.array(image.shape)).astype(int)
    options = {"clip": True, "anti_aliasing": False, "cval": 0}
    if anisotropic:
        slices = [resize(image[..., k], shape[:2], order=3, mode="edge", **options) for k in range(image.shape[2])]
        image = resize(np.stack(slices, axis=-1), shape, order=0, mode="constant", **options)
    elif list(shape) != list(image.shape):
        image = resize(image, shape, order=3, mode="edge", **options)
    return NormalizeIntensity(nonzero=True, channel_wise=True)(image[None].copy()).numpy()


@pytest.mark.parametrize(
    ("sizes", "anisotropic"), [((1.0, 1.0, 1.0), False), ((0.9, 1.1, 1.3), False), ((1.0, 0.9, 3.2), True)]
)
def test_preprocessing_equals_the_packages(sizes, anisotropic):
    case = a_case(np.diag([*sizes, 1.0]))
    placement = mindglide.MindGlide.of(torch.nn.Identity()).place(case)
    expected = theirs(case, sizes, anisotropic)
    assert placement.input.shape[1:] == expected.shape
    assert np.allclose(placement.input[0].numpy(), expected, atol=1e-4)
    ones = placement.to_scan.forward(torch.ones(placement.input.shape[2:]))
    inside = np.zeros(case.image.shape)
    inside[2:-3, 3:-2, 1:-2] = 1
    assert np.allclose(ones.numpy(), inside, atol=1e-5)


def test_flipped_scans_are_turned_to_ras():
    plain = a_case(np.eye(4))
    affine = np.diag([-1.0, 1, 1, 1])
    flipped = Case(Volume(plain.image.data[:, ::-1].copy(), affine, ("FLAIR",)), plain.head[::-1].copy())
    model = mindglide.MindGlide.of(torch.nn.Identity())
    assert torch.equal(model.place(plain).input, model.place(flipped).input)
    gradient = torch.randn(model.place(plain).input.shape[1:])
    assert torch.allclose(model.place(plain).pull_back(gradient), model.place(flipped).pull_back(gradient).flip(1))


def test_network_takes_the_packages_weights(tmp_path, monkeypatch):
    network = mindglide.build_network().eval()
    state = network.state_dict()
    assert sum("deep_supervision_heads" in name for name in state) == 6
    assert sum(value.numel() for value in state.values()) == 61_562_828
    torch.save(state, tmp_path / mindglide.WEIGHTS)
    model = zoo.load_model(f"mindglide?weights={tmp_path / mindglide.WEIGHTS}&channel=T1w")
    assert (model.spec.channels, model.spec.lesion_class, model.spec.classes) == (("T1w",), 18, 20)
    x = torch.randn(1, 1, 64, 64, 32)
    with torch.no_grad():
        assert torch.equal(model.network(x), network(x))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with pytest.raises(ModelFileError, match="MS-PINPOINT--mindglide"):
        zoo.load_model("mindglide")
    folder = tmp_path / "hf/hub/models--MS-PINPOINT--mindglide/snapshots/abc"
    folder.mkdir(parents=True)
    (tmp_path / mindglide.WEIGHTS).rename(folder / mindglide.WEIGHTS)
    assert zoo.load_model("mindglide").spec.channels == ("FLAIR",)
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "no.pt"))
    with pytest.raises(ModelFileError, match=r"no\.pt, but there is no such file"):
        zoo.load_model("mindglide")
