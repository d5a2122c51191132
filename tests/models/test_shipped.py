"""The weights that ship: small, honest about themselves, and able to find a plain lesion."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lesionwise.geometry.volume import Volume
from lesionwise.metrics import dice
from lesionwise.models import builtin
from lesionwise.models.folds import CrossValidated
from lesionwise.network import answer
from lesionwise.phantom import synthesise
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.windows import WindowGrid, predict, probability


@pytest.fixture(scope="module")
def model() -> AbstractSegmenter:
    return builtin.load("builtin")


def test_weights_are_small_and_the_card_says_what_they_are(model: AbstractSegmenter) -> None:
    assert (builtin.WEIGHTS / "builtin.safetensors").stat().st_size <= 8_000_000
    assert model.spec.channels == ("FLAIR", "T1w")
    for source in ("10.1007/s12021-017-9348-7", "10.1038/s41597-025-05250-y", "30393475", "synthetic"):
        assert source in model.spec.card["data"]
    assert model.spec.card["steps"] > 0
    assert next(model.network.parameters()).dtype == torch.float32
    assert not model.network.training


def test_the_receptive_field_ends_where_the_spec_says(model: AbstractSegmenter) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 160, 48, 48, requires_grad=True)
    extent = 0
    for position in (80, 87):
        (gradient,) = torch.autograd.grad(model.network(x)[0, 1, position, 24, 24], x)
        touched = torch.nonzero(gradient.abs().sum((0, 1, 3, 4))).ravel()
        extent = max(extent, int(touched.max() - touched.min()) + 1)
    assert model.spec.receptive_field_vox is not None
    assert 24 < extent <= model.spec.receptive_field_vox[0]


def test_plain_synthetic_lesions_are_found_and_a_healthy_brain_is_left_alone(model: AbstractSegmenter) -> None:
    def predicted(n_lesions: int) -> tuple[np.ndarray, np.ndarray]:
        phantom = synthesise(11, size="small", n_lesions=n_lesions, lesion_contrast=0.7, mimics=False)
        x = model.place(phantom.case()).input
        logits = predict(model.network, x, WindowGrid.of(model.spec, phantom.image.shape))
        return probability(logits, model.spec).numpy() > model.spec.threshold, phantom.reference

    mask, reference = predicted(12)
    assert dice(mask, reference) > 0.4
    empty, _ = predicted(0)
    assert empty.sum() < 0.3 * mask.sum()


def test_flair_alone_is_enough_and_said(model: AbstractSegmenter) -> None:
    case = synthesise(11, size="small", n_lesions=12, lesion_contrast=0.7, mimics=False).case()
    alone = replace(case, image=Volume(case.image.data[:1], case.image.affine, ("FLAIR",)))
    asked = model.for_case(alone)
    assert asked.spec.channels == ("FLAIR",)
    assert "T1w was not given" in asked.spec.card["lacking"]
    x = asked.place(alone).input
    logits = predict(asked.network, x, WindowGrid.of(asked.spec, alone.image.shape))
    mask = probability(logits, asked.spec).numpy() > asked.spec.threshold
    assert dice(mask, case.reference) > 0.3


@pytest.mark.parametrize(
    ("name", "networks", "size"), [("builtin-folds", 5, 20_000_000), ("dynunet-folds", 3, 4_000_000)]
)
def test_the_networks_of_the_folds_ship_in_one_file_and_leave_every_patient_out_once(
    name: str, networks: int, size: int
) -> None:
    path = builtin.WEIGHTS / f"{name}.folds.npz"
    assert path.stat().st_size <= size
    model = builtin.load(name)
    assert isinstance(model, CrossValidated)
    subjects = [name for fold in model.held_out for name in fold]
    assert len(subjects) == len(set(subjects)) == 14
    assert len(model.parts) == networks
    assert all(len(hashes) >= 2 for hashes in model.contents)


def test_a_network_that_normalises_by_the_window_ships_without_a_receptive_field_and_takes_flair_alone() -> None:
    part = builtin.load("dynunet-folds", {"fold": "0"})
    assert part.spec.receptive_field_vox is None
    assert part.spec.window == (64, 64, 64)
    case = synthesise(11, size="small", n_lesions=12, lesion_contrast=0.7, mimics=False).case()
    alone = replace(case, image=Volume(case.image.data[:1], case.image.affine, ("FLAIR",)))
    asked = part.for_case(alone)
    x = asked.place(alone).input
    grid = WindowGrid.of(part.spec, alone.image.shape)
    blank = predict(part.network, torch.cat([x, torch.zeros_like(x)], dim=1), grid)
    assert torch.allclose(predict(asked.network, x, grid), blank, atol=1e-4)
    assert dice(probability(blank, part.spec).numpy() > part.spec.threshold, case.reference) > 0.4


def test_what_learnt_from_synthetic_patients_only_still_ships() -> None:
    before = builtin.load("builtin-synthetic")
    assert "no real scan" in before.spec.card["data"]
    assert before.fingerprint != builtin.load("builtin").fingerprint


@pytest.mark.parametrize("name", builtin.names())
def test_what_is_taken_as_fitting_does_fit(name: str) -> None:
    model = builtin.load(name)
    for part in getattr(model, "parts", (model,)):
        found = answer(part.network, channels=len(part.spec.channels), window=part.spec.window)
        assert found.shape == (1, part.spec.outputs, *part.spec.window)


def test_loading_what_ships_does_not_import_the_compiler() -> None:
    code = "import sys; from lesionwise.models import builtin; builtin.load('builtin'); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
