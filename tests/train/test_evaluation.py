"""The paper's table: hand-checked metrics, thresholds from validation patients only, intervals and paired tests."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lesionwise.cli.main import main
from lesionwise.cohort import CohortRunner, Shard
from lesionwise.errors import InputError
from lesionwise.evaluation import evaluate, markdown
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.io.nifti import read_image, write_image
from lesionwise.metrics import dice, normalised_dice
from lesionwise.models.folds import CrossValidated
from lesionwise.models.statedict import save_model
from lesionwise.segmenter import Segmenter, Spec

CHANNELS = ("FLAIR", "T1w")


class Bright(nn.Module):
    """A lesion where FLAIR is bright: logit = gain * (FLAIR - level)."""

    def __init__(self, level, gain=3.0, channels=2):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(float(level)))
        self.gain = gain
        self._calls = 0  # private: it decides no answer, and is not in the fingerprint

    @property
    def calls(self):
        return self._calls

    def forward(self, x):
        self._calls += 1
        z = self.gain * (x[:, :1] - self.level)
        return torch.cat([-z / 2, z / 2], dim=1)


def a_model(level, name, threshold=0.5):
    return Segmenter(Bright(level), Spec(name, CHANNELS, (24, 24, 24), threshold=threshold, spacing_mm=None))


@pytest.fixture(scope="module")
def result(blobs, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    ventricles = np.zeros((36, 36, 34), dtype=bool)
    ventricles[16:20, 16:20, 15:19] = True
    for n in range(4):
        place = blobs / "derivatives" / "truth" / f"sub-b{n}" / "anat"
        write_image(place / f"sub-b{n}_label-ventricles_mask.nii.gz", ventricles, np.eye(4), dtype=bool)
    models = {"good": a_model(1.5, "good"), "eager": a_model(-0.3, "eager")}
    return evaluate(models, blobs, out, runner=CohortRunner(progress_fn=lambda *a: None)), models, out


def test_metrics_are_those_of_the_masks(result, blobs):
    tables, models, out = result
    scans = find_scans(blobs, channels=CHANNELS).scans
    assert len(tables.metrics) == 2 * len(scans) == 14
    for scan in scans:
        case = read_case(dict(scan.images), reference=scan.reference)
        p, _ = read_image(out / "good" / scan.name.folder / f"{scan.name.stem}_label-L_probseg.nii.gz")
        x = models["good"].prepare(case)[0, 0].numpy()
        assert np.allclose(p, 1 / (1 + np.exp(-3 * (x - 1.5))), atol=1e-5)
        row = tables.metrics.query("model == 'good' and scan == @scan.name.stem").iloc[0]
        assert row["dice"] == pytest.approx(dice(p > 0.5, case.reference))
        assert row["ndsc"] == pytest.approx(normalised_dice(p > 0.5, case.reference))


def test_patients_count_once_and_lesions_are_pooled(result):
    tables, *_ = result
    good = tables.metrics[tables.metrics["model"] == "good"]
    summary = tables.summary[tables.summary["model"] == "good"].set_index("metric")
    assert summary.loc["dice", "estimate"] == pytest.approx(good.groupby("subject")["dice"].mean().mean())
    assert summary.loc["dice", "patients"] == 6
    found, all_of_them = good["lesions_reference_found"].sum(), good["lesions_reference"].sum()
    assert summary.loc["tpr", "estimate"] == pytest.approx(found / all_of_them)
    assert summary.loc["fnr", "estimate"] == pytest.approx(1 - found / all_of_them)
    assert set(summary.index) >= {
        "ndsc",
        "assd_mm",
        "hd95_mm",
        "volume_difference_mm3",
        "ppv_iou",
        "f1",
        "tpr_published",
    }


def test_the_better_model_is_better_in_every_table(result):
    tables, *_ = result
    row = tables.comparison.set_index("metric").loc["dice"]
    assert (row["first"], row["second"]) == ("good", "eager")
    assert row["difference"] > 0.2
    pairs = tables.metrics.pivot(index="scan", columns="model", values="dice")
    subjects = tables.metrics.drop_duplicates("scan").set_index("scan")["subject"]
    by_patient = (pairs["good"] - pairs["eager"]).groupby(subjects).mean()
    assert row["difference"] == pytest.approx(by_patient.mean())
    assert (tables.comparison["p_holm"] >= tables.comparison["p"] - 1e-12).all()


def test_breakdowns_hold_every_lesion_once(result):
    tables, *_ = result
    good = tables.metrics[tables.metrics["model"] == "good"]
    size = tables.by_size[tables.by_size["model"] == "good"]
    assert size["reference"].sum() == good["lesions_reference"].sum()
    known = good[good["scan"].isin([f"sub-b{n}" for n in range(4)])]
    place = tables.by_ventricles[tables.by_ventricles["model"] == "good"]
    assert place["reference"].sum() == known["lesions_reference"].sum()


def test_files_are_written_and_read_back(result, blobs):
    tables, models, out = result
    names = {"metrics.csv", "summary.csv", "comparison.csv", "by_size.csv", "by_ventricles.csv", "evaluation.md"}
    assert names | {"evaluation.png", "config.json"} <= {p.name for p in out.iterdir()}
    assert len(pd.read_csv(out / "summary.csv")) == len(tables.summary)
    assert (out / "evaluation.md").read_text() == markdown(tables)
    calls = models["good"].module.calls
    again = evaluate(models, blobs, out)
    assert models["good"].module.calls == calls, "probability maps were there already"
    pd.testing.assert_frame_equal(again.summary, tables.summary)


def test_threshold_is_chosen_on_validation_patients_only(blobs, tmp_path):
    model = a_model(0.5, "low", threshold=0.5)
    tables = evaluate({"low": model}, blobs, tmp_path, validation=["b0", "b1"])
    threshold, source = tables.thresholds["low"]
    assert threshold > 0.5
    assert source == "chosen on 2 validation patients"
    assert {"b0", "b1"}.isdisjoint(tables.metrics["subject"])
    facts = json.loads((tmp_path / "config.json").read_text())
    assert facts["models"]["low"]["threshold"] == threshold
    plain = evaluate({"low": model}, blobs, tmp_path, participants=["b2"])
    assert plain.thresholds["low"] == (0.5, "the model's own")


def test_mistakes_get_one_sentence(blobs, tmp_path):
    model = a_model(0.5, "low")
    with pytest.raises(InputError, match="b0 as both"):
        evaluate({"low": model}, blobs, tmp_path, participants=["b0"], validation=["sub-b0"])
    with pytest.raises(InputError, match="at least one model"):
        evaluate({}, blobs, tmp_path)
    with pytest.raises(InputError, match="nobody"):
        evaluate({"low": model}, blobs, tmp_path, validation=["nobody"])


def test_command_evaluates_two_models(blobs, tmp_path, capsys):
    from monai.networks.nets import UNet

    arguments = {"spatial_dims": 3, "in_channels": 2, "out_channels": 2, "channels": [4, 8], "strides": [2]}
    torch.manual_seed(0)
    spec = Spec("net", CHANNELS, (24, 24, 24), spacing_mm=None)
    for name in ("one", "two"):
        save_model(tmp_path / name, UNet(**arguments), spec, class_name="monai.networks.nets.UNet", arguments=arguments)
    options = ["--model", str(tmp_path / "one"), "--model", str(tmp_path / "two"), "--device", "cpu"]
    code = main(["evaluate", str(blobs), "-o", str(tmp_path / "out"), *options, "--participant-label", "b1"])
    assert code == 0
    shown = capsys.readouterr().out
    assert "| one | 0.5 (the model's own) |" in shown
    assert "| two |" in shown
    assert main(["models", "show", str(tmp_path / "one")]) == 0
    assert "FLAIR, T1w" in capsys.readouterr().out
    assert main(["evaluate", str(blobs), "-o", str(tmp_path / "out"), *options, "--name", "x"]) == 2


@pytest.fixture
def mine(blobs, tmp_path):
    """A copy of three patients that a test may spoil."""
    bids = tmp_path / "bids"
    for place in ("", "derivatives/manual"):
        for subject in ("b0", "b1", "b2"):
            shutil.copytree(blobs / place / f"sub-{subject}", bids / place / f"sub-{subject}")
    return bids


def test_another_image_in_the_same_place_is_predicted_anew(mine, tmp_path):
    model, out = a_model(1.5, "good"), tmp_path / "out"
    before = evaluate({"good": model}, mine, out)
    anat = "sub-{0}/anat/sub-{0}_{1}.nii.gz"
    for channel in CHANNELS:
        shutil.copyfile(mine / anat.format("b1", channel), mine / anat.format("b0", channel))
    calls = model.module.calls
    after = evaluate({"good": model}, mine, out)
    assert model.module.calls > calls
    maps = [read_image(out / "good" / anat.format(b, "label-L_probseg"))[0] for b in ("b0", "b1")]
    assert np.array_equal(*maps)
    changed = before.metrics["dice"].to_numpy() != after.metrics["dice"].to_numpy()
    assert changed.tolist() == [True, False, False]


def test_one_bad_mask_is_left_out_for_every_model_and_said(mine, tmp_path):
    (mine / "derivatives/manual/sub-b1/anat/sub-b1_label-L_mask.nii.gz").write_bytes(b"no image")
    runner, out = CohortRunner(), tmp_path / "out"
    tables = evaluate({"good": a_model(1.5, "good"), "eager": a_model(-0.3, "eager")}, mine, out, runner=runner)
    assert sorted(set(tables.metrics["subject"])) == ["b0", "b2"]
    assert len(tables.metrics) == 4
    assert list(runner.left_out) == ["sub-b1"]
    assert "sub-b1_label-L_mask.nii.gz" in runner.left_out["sub-b1"]
    assert "Left out: sub-b1" in (out / "evaluation.md").read_text()
    assert "sub-b1\trun\t" in (out / "left_out.tsv").read_text()


def test_a_share_computes_and_the_whole_makes_the_tables(mine, tmp_path):
    model, out = a_model(1.5, "good"), tmp_path / "out"
    for index in (1, 2):
        assert evaluate({"good": model}, mine, out, runner=CohortRunner(shard=Shard(index, 2))) is None
    calls = model.module.calls
    assert len(evaluate({"good": model}, mine, out).metrics) == 3
    assert model.module.calls == calls


def test_no_usable_scan_is_one_sentence(mine, tmp_path):
    for mask in mine.glob("derivatives/manual/*/anat/*_label-L_mask.nii.gz"):
        mask.write_bytes(b"no image")
    with pytest.raises(InputError, match="found none"):
        evaluate({"good": a_model(1.5, "good")}, mine, tmp_path / "out")


def test_a_cross_validated_model_is_judged_patient_by_patient_by_the_network_that_left_them_out(blobs, tmp_path):
    parts = (a_model(1.5, "good", threshold=0.4), a_model(-0.3, "eager", threshold=0.6))
    held_out = (("b0", "b1", "b2"), ("b3", "b4", "b5"))
    found = evaluate({"folds": CrossValidated(parts, held_out)}, blobs, tmp_path / "folds")
    assert "each fold's own" in markdown(found)
    alone = {n: evaluate({"one": part}, blobs, tmp_path / f"{n}") for n, part in enumerate(parts)}
    dices = found.metrics.set_index("scan")["dice"]
    for n, subjects in enumerate(held_out):
        rows = alone[n].metrics[alone[n].metrics["subject"].isin(subjects)]
        assert len(rows) >= 3
        assert dict(dices[rows["scan"]]) == dict(zip(rows["scan"], rows["dice"], strict=True))
