"""Cross-validation: every patient is left out once, and the folder is a model that never asks a network about them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lesionwise.errors import InputError
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.models.folds import CrossValidated
from lesionwise.models.zoo import load_model
from lesionwise.train.folds import start_of_fold, train_folds
from lesionwise.train.operating_point import (
    VoxelCalibration,
    best_point,
    calibrated_weights,
    fit_calibration,
    lesion_f1,
)
from lesionwise.train.recipe import Recipe
from lesionwise.train.run import network_of, start_from, train

pytest.importorskip("pytorch_lightning")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
RECIPE = Recipe.named(
    "small-data", "unet", size="tiny", patch=(16, 16, 16), epochs=1, steps=3, batch=2, validate_every=9, folds=2
)


@pytest.fixture(scope="module")
def run(blobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trained = train_folds(blobs, folder, RECIPE, device="cpu")
    assert [one.finished for one in trained] == [True, True]
    return folder


def test_every_patient_is_left_out_once_and_asked_of_that_network(blobs, run):
    index = json.loads((run / "folds.json").read_text())
    assert sorted(name for fold in index["held_out"] for name in fold) == [f"b{n}" for n in range(6)]
    model = load_model(run)
    assert isinstance(model, CrossValidated)
    for scan in find_scans(blobs, channels=("FLAIR", "T1w")).scans:
        fold = model.fold_of(read_case(dict(scan.images), name=scan.name))
        splits = json.loads((run / f"fold-{fold}" / "splits.json").read_text())
        assert scan.name.stem in splits["val"]
        assert scan.name.stem not in splits["train"]


def test_the_operating_point_of_a_fold_is_chosen_on_the_others(run):
    facts = json.loads((run / "out-of-fold.json").read_text())
    scores = pd.read_csv(run / "out-of-fold-scores.csv")
    model = load_model(run)
    for fold, part in enumerate(model.parts):
        expected = best_point(scores[scores["fold"] != fold])
        assert (part.spec.threshold, part.spec.min_size_vox) == (expected.threshold, expected.min_size_vox)
    assert facts["strangers"]["patients"] == 6


def test_going_on_changes_nothing(blobs, run):
    before = {p.name: p.read_bytes() for p in run.glob("fold-*/model.*")}
    train_folds(blobs, run, RECIPE, device="cpu")
    assert {p.name: p.read_bytes() for p in run.glob("fold-*/model.*")} == before


def test_the_averaged_weights_are_kept(blobs, tmp_path):
    train(blobs, tmp_path / "a", replace(RECIPE, folds=1), device="cpu")
    train(blobs, tmp_path / "b", replace(RECIPE, folds=1, average=0.0), device="cpu")
    a, b = (load_model(tmp_path / name).network.state_dict() for name in "ab")
    assert any(not torch.equal(a[key], b[key]) for key in a)


def test_all_patients_can_be_trained_on(blobs, tmp_path):
    trained = train(blobs, tmp_path, replace(RECIPE, folds=1, validation=0.0), device="cpu")
    assert json.loads((tmp_path / "splits.json").read_text())["val"] == []
    assert np.isnan(trained.val_ndsc)
    assert load_model(tmp_path).spec.optional_channels == ("T1w",)


def test_starting_from_a_run_copies_its_weights_and_a_head_of_other_classes_stays_fresh(run):
    network = network_of(RECIPE)
    assert start_from(network, f"{run}?fold=1") == []
    given = load_model(f"{run}?fold=1").network.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in network.state_dict().items())


def test_a_fold_starts_from_the_network_that_left_the_same_patients_out(run):
    folds = json.loads((run / "folds.json").read_text())["held_out"]
    assert start_of_fold(str(run), 1, folds) == f"{run}?fold=1"
    assert start_of_fold("builtin-synthetic", 1, folds) == "builtin-synthetic"
    with pytest.raises(InputError, match="have seen patients"):
        start_of_fold(str(run), 1, folds[::-1])


def test_starting_from_another_layout_is_refused(run):
    with pytest.raises(InputError, match="same layout"):
        start_from(network_of(replace(RECIPE, size="small")), f"{run}?fold=0")


def test_calibration_undoes_a_known_distortion():
    rng = np.random.default_rng(0)
    truth = rng.normal(-1, 2, 40_000)
    lesion = (rng.uniform(size=truth.size) < 1 / (1 + np.exp(-truth))).astype(float)
    found = fit_calibration([("a", 2 * truth + 1, lesion)])
    assert found.scale == pytest.approx(0.5, abs=0.03)
    assert found.shift == pytest.approx(-0.5, abs=0.06)


def test_calibrated_weights_give_calibrated_log_odds():
    network = network_of(RECIPE).eval()
    x = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        before = network(x)
        after = calibrated_weights(network, VoxelCalibration(0.5, -1.0))(x)
    assert torch.allclose(after[:, 1] - after[:, 0], 0.5 * (before[:, 1] - before[:, 0]) - 1.0, atol=1e-5)


def test_the_best_point_weighs_patients_not_scans():
    rows = [
        {"subject": "a", "scan": f"a{n}", "threshold": 0.3, "min_size_vox": 6, "ndsc": 1.0, "f1": 1.0} for n in range(3)
    ]
    rows += [{"subject": s, "scan": s, "threshold": 0.3, "min_size_vox": 6, "ndsc": 0.2, "f1": 0.2} for s in "bc"]
    rows += [{"subject": s, "scan": s, "threshold": 0.5, "min_size_vox": 6, "ndsc": 0.6, "f1": 0.6} for s in "abc"]
    assert best_point(pd.DataFrame(rows)).threshold == 0.5  # .6 against .47 over patients, .68 over scans


def test_dropping_small_components_never_makes_fewer_lesions_to_find():
    reference = np.zeros((30, 10, 10), dtype=np.int64)
    reference[1:3, 1:3, 1:3] = 1  # 8 voxels
    reference[10:14, 1:5, 1:5] = 2  # 64
    reference[20, 1, 1] = 3  # 1 voxel: not asked for, but no error to find
    prediction = np.zeros_like(reference)
    prediction[1:3, 1:3, 1:3] = 1
    prediction[10:14, 1:5, 1:5] = 2
    prediction[20, 1, 1:8] = 3
    prediction[26, 1, 1:8] = 4  # false, 7 voxels
    # all: 3 of 4 right, 2 of 2 found; from 8 voxels on: 2 of 2 and 2 of 2; from 12: 1 of 1, but 1 of 2 found
    assert lesion_f1(prediction, reference, smallest_vox=1) == pytest.approx(2 * 0.75 / 1.75)
    assert lesion_f1(prediction, reference, smallest_vox=8) == pytest.approx(1.0)
    assert lesion_f1(prediction, reference, smallest_vox=12) == pytest.approx(2 * 0.5 / 1.5)
    assert lesion_f1(np.zeros_like(reference), reference, smallest_vox=1) == 0
