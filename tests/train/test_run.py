"""Training: it learns, resumes after a kill as if nothing had happened, and leaves a model."""

import csv
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lesionwise
from lesionwise.errors import InputError
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.models.zoo import load_model
from lesionwise.train import learner
from lesionwise.train.recipe import Recipe
from lesionwise.train.run import train

pytest.importorskip("pytorch_lightning")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
RECIPE = Recipe("unet", size="tiny", patch=(16, 16, 16), epochs=2, steps=3, batch=2, validate_every=1)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("network", ["unet", "dynunet", "swinunetr"])
def test_each_network_trains_into_a_folder_that_load_model_takes(blobs, tmp_path, network):
    patch = (32, 32, 64) if network == "swinunetr" else (16, 16, 16)
    recipe = replace(RECIPE, network=network, patch=patch, epochs=1, steps=1, batch=1)
    seen = []
    trained = train(blobs, tmp_path, recipe, device="cpu", progress_fn=lambda *a: seen.append(a))
    assert trained.finished
    assert seen[-1] == ("train", 1, 1)
    model = load_model(tmp_path)
    assert model.spec.window == patch
    assert model.spec.threshold == trained.threshold
    assert model.spec.card["val_ndsc"] == pytest.approx(trained.val_ndsc, abs=1e-4)
    assert model.network(torch.zeros(1, 2, *patch)).shape == (1, 2, *patch)
    config = tomllib.loads((tmp_path / "config.toml").read_text())
    assert Recipe.of(config["recipe"]) == recipe
    assert config["versions"]["torch"] == torch.__version__


def test_mixed_precision_trains_and_leaves_single_precision_weights(blobs, tmp_path):
    trained = train(blobs, tmp_path, replace(RECIPE, epochs=1, precision="bf16-mixed"), device="cpu")
    assert trained.finished
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} <= {torch.float32, torch.int64}


class SpoiltLoss(torch.nn.Module):
    """A loss whose gradient is not a number from call `first` to call `last`."""

    def __init__(self, first, last):
        super().__init__()
        self.first, self.last, self.calls = first, last, 0

    def forward(self, logits, mask):
        self.calls += 1
        spoilt = self.first <= self.calls <= self.last
        return (logits.float() ** 2).mean() * (float("nan") if spoilt else 1.0)


def test_a_step_without_a_finite_gradient_is_left_out_and_counted(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "loss_of", lambda recipe: SpoiltLoss(2, 2))
    train(blobs, tmp_path, RECIPE, device="cpu")
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [row["skipped_steps"] for row in rows] == ["1", "0"]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    weights = load_file(tmp_path / "model.safetensors").values()
    assert all(bool(torch.isfinite(value.float()).all()) for value in weights)


def test_training_that_diverged_stops_with_one_sentence_and_keeps_what_was_before(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "loss_of", lambda recipe: SpoiltLoss(4, 99))
    with pytest.raises(InputError, match=r"diverged: 3 of 3 steps of epoch 1 .*--precision 32-true, in a new folder"):
        train(blobs, tmp_path, RECIPE, device="cpu")
    assert len(list(csv.DictReader((tmp_path / "curves.csv").open()))) == 1
    assert (tmp_path / "last.ckpt").is_file()


def test_it_learns(blobs, tmp_path):
    recipe = replace(RECIPE, epochs=12, steps=10, batch=4, validate_every=4, learning_rate=1e-2)
    trained = train(blobs, tmp_path, recipe, device="cpu")
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [int(row["epoch"]) for row in rows] == list(range(12))
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert trained.val_ndsc > 0.5
    scan = find_scans(blobs, channels=("FLAIR", "T1w")).scans[0]
    model = load_model(tmp_path)
    assert model.prepare(read_case(dict(scan.images))).shape == (1, 2, 36, 36, 34)


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from lesionwise.train.recipe import Recipe
from lesionwise.train.run import train
train(sys.argv[1], sys.argv[2], Recipe("unet", size="tiny", patch=(16, 16, 16), epochs=8, steps=4, batch=2,
      validate_every=2), device="cpu")
"""


def test_killed_and_resumed_gives_the_very_same_weights(blobs, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(lesionwise.__file__).parent.parent), "OMP_NUM_THREADS": "1"}

    def start(run):
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(blobs), str(run)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        curves = killed / "curves.csv"
        if curves.is_file() and len(curves.read_text().splitlines()) >= 4:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = len((killed / "curves.csv").read_text().splitlines()) - 1
    assert 3 <= rows < 8, "killed in the middle"

    assert start(killed).wait() == 0
    assert start(whole).wait() == 0
    assert (killed / "curves.csv").read_text() == (whole / "curves.csv").read_text()
    ours, theirs = load_file(killed / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (killed / "model.toml").read_text() == (whole / "model.toml").read_text()


def test_training_stops_early_and_more_patience_goes_on(blobs, tmp_path):
    stuck = replace(RECIPE, epochs=30, steps=1, batch=1, patience=1, learning_rate=1e-9)
    trained = train(blobs, tmp_path, stuck, device="cpu")
    assert trained.finished
    assert trained.epochs < 30
    again = train(blobs, tmp_path, stuck, device="cpu")
    assert again.epochs <= trained.epochs + 1


def test_another_training_in_the_folder_gets_one_sentence(blobs, tmp_path):
    train(blobs, tmp_path / "run", replace(RECIPE, epochs=1, steps=1), device="cpu")
    with pytest.raises(InputError, match=r"another steps, seed"):
        train(blobs, tmp_path / "run", replace(RECIPE, epochs=1, seed=1), device="cpu")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="found other files"):
        train(blobs, tmp_path / "other", RECIPE, device="cpu")


def test_export_is_nnunets_raw_format(blobs, tmp_path):
    import json

    from lesionwise.io.nifti import read_image
    from lesionwise.train.nnunet_export import export_nnunet

    folder = export_nnunet(blobs, tmp_path, number=7, name="Blobs")
    assert folder.name == "Dataset007_Blobs"
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["numTraining"] == len(list((folder / "labelsTr").glob("*.nii.gz"))) == 7
    assert len(list((folder / "imagesTr").glob("*_0001.nii.gz"))) == 7
    image, affine = read_image(folder / "imagesTr" / "sub-b0_0000.nii.gz")
    original, wanted = read_image(blobs / "sub-b0" / "anat" / "sub-b0_FLAIR.nii.gz")
    assert np.array_equal(affine, wanted)
    assert np.array_equal(image[image != 0], original[image != 0])
    for fold in json.loads((folder / "splits_by_patient.json").read_text()):
        patients = [{name.split("_")[0] for name in fold[side]} for side in ("train", "val")]
        assert patients[0].isdisjoint(patients[1])
    verify = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")
    verify.verify_dataset_integrity(str(folder), num_processes=1)
