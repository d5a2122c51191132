"""Prepared scans on disk: the derivative, resume, scans set aside, the command and `--prepare`."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from heads import channel, small_head, small_patient

from lesionwise.cli.main import main
from lesionwise.io.bids import find_scans
from lesionwise.io.nifti import read_image, write_image
from lesionwise.metrics import dice
from lesionwise.prepare import unit
from lesionwise.prepare.extraction import EXTRACTIONS
from lesionwise.prepare.resampling import mask_onto_grid


def true_brain(volume):
    head, brain = small_head()
    return mask_onto_grid(brain, head.affine, np.eye(4), shape=volume.shape, affine=volume.affine)


@pytest.fixture
def at_home(monkeypatch):
    """A block of a brain is a small brain: its volume is no reason to set it aside here."""
    monkeypatch.setitem(EXTRACTIONS, "deepbet", true_brain)
    monkeypatch.setattr("lesionwise.prepare.doubts.BRAIN_ML", (20.0, 2000.0))
    monkeypatch.setattr("lesionwise.prepare.doubts.BRAIN_ML_ASIDE", (10.0, 2300.0))


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """FLAIR alone with a skull (01), a file that is not an image (02), and both channels, ready (03)."""
    root = tmp_path_factory.mktemp("bids")
    head, _ = small_head()
    flair = channel(head, "FLAIR", every=3)
    write_image(root / "sub-01/anat/sub-01_FLAIR.nii.gz", flair.data[0], flair.affine)
    (root / "sub-02/anat").mkdir(parents=True)
    (root / "sub-02/anat/sub-02_FLAIR.nii.gz").write_bytes(b"no image")
    patient = small_patient()
    for name, data in zip(patient.image.channels, patient.image.data, strict=True):
        write_image(root / f"sub-03/anat/sub-03_{name}.nii.gz", data, patient.image.affine)
    return root


def test_a_data_set_is_prepared_scan_by_scan_and_goes_on_where_it_was_stopped(data_set, tmp_path, at_home, capsys):
    out = tmp_path / "out"
    command = ["prepare", str(data_set), str(out), "--channel", "FLAIR"]
    assert main(command) == 3
    said = capsys.readouterr()
    assert "2 scans prepared, 0 kept, 1 set aside or left out" in said.out
    assert "sub-02" in said.err
    assert "damaged" in (out / "left_out.tsv").read_text()
    found = sorted(
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and ".lesionwise" not in str(path)
    )
    assert found == [
        ".bidsignore",
        "dataset_description.json",
        "left_out.json",
        "left_out.tsv",
        "quality.json",
        "quality.tsv",
        *(
            f"sub-{subject}/{path}"
            for subject in ("01", "03")
            for path in (
                f"anat/sub-{subject}_desc-brain_mask.json",
                f"anat/sub-{subject}_desc-brain_mask.nii.gz",
                f"anat/sub-{subject}_desc-prepare_quality.json",
                f"anat/sub-{subject}_desc-preproc_FLAIR.json",
                f"anat/sub-{subject}_desc-preproc_FLAIR.nii.gz",
                f"figures/sub-{subject}_desc-prepare_quality.png",
            )
        ),
    ]
    table = pd.read_csv(out / "quality.tsv", sep="\t", dtype={"scan": str})
    assert list(table["scan"]) == ["sub-01", "sub-03"]
    assert list(table["left_alone"]) == [False, True]
    sidecar = json.loads((out / "sub-01/anat/sub-01_desc-preproc_FLAIR.json").read_text())
    assert sidecar["SkullStripped"] is True
    assert any("extracted by deepbet" in step for step in sidecar["Steps"])
    assert main(command) == 3
    assert "0 scans prepared, 2 kept" in capsys.readouterr().out


def test_what_was_ready_has_the_bytes_of_its_voxels(data_set, tmp_path, at_home):
    assert main(["prepare", str(data_set), str(tmp_path), "--participant-label", "03"]) == 0
    for name, suffix in (("FLAIR", ""), ("T1w", "space-FLAIR_")):
        data, affine = read_image(tmp_path / f"sub-03/anat/sub-03_{suffix}desc-preproc_{name}.nii.gz")
        before, placed = read_image(data_set / f"sub-03/anat/sub-03_{name}.nii.gz")
        assert np.array_equal(data, before)
        assert np.array_equal(affine, placed)


def test_a_prepared_data_set_can_be_studied_as_it_is(data_set, tmp_path, at_home):
    assert main(["prepare", str(data_set), str(tmp_path), "--participant-label", "03"]) == 0
    (scan,) = find_scans(tmp_path, channels=["FLAIR", "T1w"], brain_masks_from=tmp_path).scans
    assert scan.name.stem == "sub-03"
    assert scan.brain_mask == tmp_path / "sub-03/anat/sub-03_desc-brain_mask.nii.gz"


def test_a_scan_to_be_looked_at_is_set_aside_with_all_its_files(data_set, tmp_path, at_home, monkeypatch, capsys):
    monkeypatch.setattr("lesionwise.prepare.doubts.BRAIN_ML", (900.0, 2000.0))
    monkeypatch.setattr("lesionwise.prepare.doubts.BRAIN_ML_ASIDE", (500.0, 2300.0))
    assert main(["prepare", str(data_set), str(tmp_path), "--channel", "FLAIR", "--participant-label", "01"]) == 3
    assert "set aside: The brain mask holds" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "quality.tsv", sep="\t")
    assert list(table["set_aside"]) == [True]
    assert "The brain mask holds" in table["doubts"][0]
    assert (tmp_path / "sub-01/figures/sub-01_desc-prepare_quality.png").is_file()
    monkeypatch.setattr(unit, "prepare_scan", None)  # it is finished: nothing of it is computed again
    assert main(["prepare", str(data_set), str(tmp_path), "--channel", "FLAIR", "--participant-label", "01"]) == 3
    assert "set aside: The brain mask holds" in capsys.readouterr().err
    assert "set aside: The brain mask holds" in (tmp_path / "left_out.tsv").read_text()


def test_a_share_tells_of_its_own_scans_alone(data_set, tmp_path, at_home, capsys):
    command = ["prepare", str(data_set), str(tmp_path), "--participant-label", "02", "03"]  # 02 has no T1w
    assert main([*command, "--shard", "2/2"]) == 0
    assert main([*command, "--shard", "1/2"]) == 3
    assert "sub-02: no T1w image" in capsys.readouterr().err


def test_the_figure_is_a_picture_that_is_not_empty(data_set, tmp_path, at_home):
    from matplotlib.image import imread

    assert main(["prepare", str(data_set), str(tmp_path), "--channel", "FLAIR", "--participant-label", "01"]) == 0
    picture = imread(tmp_path / "sub-01/figures/sub-01_desc-prepare_quality.png")
    assert picture.shape[1] > 1000
    images = picture[: 2 * len(picture) // 3]  # above the sentences
    orange = (images[..., 0] > 0.5) & (images[..., 0] - images[..., 2] > 0.3)
    assert orange.sum() > 200  # the brain's outline; everything else is grey


@pytest.fixture
def explained(bright_model, monkeypatch):
    import lesionwise.cli.explain as command

    monkeypatch.setattr(command, "load_model", lambda *args, **kwargs: bright_model)

    def call(*extra):
        return main(["explain", "--no-report", "--device", "cpu", "--method", "gradient", "--lesions", "1", *extra])

    return call


def test_explaining_a_ready_scan_with_prepare_gives_what_it_gives_without(explained, data_set, tmp_path, at_home):
    images = [part for c in ("FLAIR", "T1w") for part in ("-i", f"{c}={data_set / f'sub-03/anat/sub-03_{c}.nii.gz'}")]
    assert explained(*images, "-o", str(tmp_path / "plain")) == 0
    assert explained(*images, "--prepare", "-o", str(tmp_path / "prepared")) == 0
    name = "sub-03/anat/sub-03_label-L_probseg.nii.gz"
    plain, prepared = (read_image(tmp_path / which / name)[0] for which in ("plain", "prepared"))
    assert np.array_equal(plain, prepared)
    facts = json.loads((tmp_path / "prepared/sub-03/anat/sub-03_label-L_probseg.json").read_text())
    assert any("left as they are" in note for note in facts["Notes"])


def test_explain_ends_with_3_where_a_person_must_look_first(
    explained, data_set, tmp_path, at_home, monkeypatch, capsys
):
    monkeypatch.setattr("lesionwise.prepare.doubts.BRAIN_ML", (900.0, 2000.0))
    monkeypatch.setattr("lesionwise.prepare.doubts.BRAIN_ML_ASIDE", (500.0, 2300.0))
    flair = data_set / "sub-01/anat/sub-01_FLAIR.nii.gz"
    assert explained("-i", f"FLAIR={flair}", "--prepare", "-o", str(tmp_path)) == 3
    said = capsys.readouterr().err
    assert "sub-01 was set aside: The brain mask holds" in said
    assert "--brain-mask" in said
    assert not (tmp_path / "sub-01").exists()


def test_explain_says_what_is_wrong_with_a_file(explained, data_set, tmp_path, at_home, capsys):
    flair = data_set / "sub-02/anat/sub-02_FLAIR.nii.gz"
    assert explained("-i", f"FLAIR={flair}", "--prepare", "-o", str(tmp_path)) == 2
    assert "damaged or not one" in capsys.readouterr().err
    assert explained("-o", str(tmp_path)) == 2
    assert "either images" in capsys.readouterr().err


def test_references_drawn_on_another_grid_are_moved_and_others_stay(data_set, tmp_path, at_home):
    head, _brain = small_head()
    flair = channel(head, "FLAIR", every=3)
    mask = true_brain(flair)
    path = tmp_path / "mask.nii.gz"
    write_image(path, mask, flair.affine, dtype=bool)
    (scan,) = find_scans(data_set, channels=["FLAIR"], participants=["01"]).scans
    from dataclasses import replace

    task = unit.PrepareTask(replace(scan, reference=path), tmp_path / "out", unit.Preparation())
    unit.prepare_files(task)
    assert task.ready().reference == path
    assert dice(read_image(task.ready().brain_mask)[0] > 0, mask) == 1.0
    assert nib.load(task.ready().images["FLAIR"]).shape == flair.shape
