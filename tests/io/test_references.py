"""Reference masks under the names that people and programs give them."""

import json

import pytest

from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import find_scans, read_filters
from lesionwise.io.references import find_brain_masks, find_references


def _touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_label-L_mask.nii.gz",
        "sub-01_label-lesion_mask.nii",
        "sub-01_desc-lesion_mask.nii.gz",
        "sub-01_label-L_desc-rater1_dseg.nii.gz".replace("label-L_desc-rater1", "desc-rater1_label-L"),
        "sub-01_space-flair_seg-lst.nii.gz",
        "sub-01.nii.gz",
    ],
)
def test_names_found_in_derivatives(tmp_path, name):
    _touch(tmp_path, f"derivatives/manual/sub-01/anat/{name}")
    assert find_references(tmp_path).of(ScanName("01")).name == name


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_FLAIR.nii.gz",
        "sub-01_desc-brain_mask.nii.gz",
        "sub-01_space-MNI152NLin2009cAsym_label-L_mask.nii.gz",
        ".3f2.tmp.sub-01_label-L_mask.nii.gz",
    ],
)
def test_names_that_are_no_reference(tmp_path, name):
    _touch(tmp_path, f"derivatives/manual/sub-01/anat/{name}")
    assert find_references(tmp_path).of(ScanName("01")) is None


def test_own_predictions_are_never_taken_for_a_reference(tmp_path):
    out = tmp_path / "derivatives" / "lesionwise"
    _touch(out, "sub-01/anat/sub-01_label-L_mask.nii.gz")
    description = {"Name": "lesionwise", "GeneratedBy": [{"Name": "lesionwise", "Version": "0.1.0"}]}
    (out / "dataset_description.json").write_text(json.dumps(description))
    assert find_references(tmp_path).of(ScanName("01")) is None
    _touch(tmp_path, "derivatives/manual/sub-01/anat/sub-01_label-L_mask.nii.gz")
    assert "manual" in str(find_references(tmp_path).of(ScanName("01")))


def test_the_best_name_wins_and_sessions_runs_and_acquisitions_must_agree(tmp_path):
    folder = tmp_path / "derivatives/all/sub-01/ses-a/anat"
    _touch(
        folder,
        "sub-01_ses-a_space-flair_seg-lst.nii.gz",
        "sub-01_ses-a_run-1_label-L_mask.nii.gz",
        "sub-01_ses-a_run-2_label-L_mask.nii.gz",
    )
    found = find_references(tmp_path)
    assert found.of(ScanName("01", "a", run="2")).name == "sub-01_ses-a_run-2_label-L_mask.nii.gz"
    assert found.of(ScanName("01", "a", run="3")).name == "sub-01_ses-a_space-flair_seg-lst.nii.gz"
    assert found.of(ScanName("01", "b")) is None


def test_nnunet_labels_without_bids_names(tmp_path):
    labels = _touch(tmp_path / "labelsTr", "MS_001.nii.gz", "MS002ses1.nii.gz", "MS_001_0000.nii.gz", "sub-03.nii.gz")
    found = find_references(tmp_path, labels)
    assert found.of(ScanName("MS001")).name == "MS_001.nii.gz"
    assert found.of(ScanName("MS002", "ses1")).name == "MS002ses1.nii.gz"
    assert found.of(ScanName("03")).name == "sub-03.nii.gz"
    assert found.of(ScanName("MS004")) is None


def test_brain_masks_and_a_scan_without_one(tmp_path):
    _touch(tmp_path, *(f"sub-{s}/anat/sub-{s}_{c}.nii.gz" for s in ("01", "02") for c in ("FLAIR", "T1w")))
    masks = _touch(tmp_path / "derivatives/brains", "sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    found = find_scans(tmp_path, channels=("FLAIR", "T1w"), brain_masks_from=masks)
    assert [scan.brain_mask.name for scan in found.scans] == ["sub-01_desc-brain_mask.nii.gz"]
    assert found.left_out[0].reason == "no brain mask in the folder of brain masks"
    with pytest.raises(InputError, match="folder of brain masks"):
        find_brain_masks(tmp_path / "none")


def test_filters_by_long_and_short_names_lists_and_absence(tmp_path):
    names = ["", "_acq-3D", "_acq-2D_run-01", "_acq-3D_rec-norm"]
    _touch(tmp_path, *(f"sub-1/anat/sub-1{name}_FLAIR.nii.gz" for name in names), "sub-1/anat/sub-1_T1w.nii.gz")
    file = tmp_path / "filter.json"

    def stems(query):
        file.write_text(json.dumps(query))
        filters = read_filters(file, channels=("FLAIR", "T1w"))
        found = find_scans(tmp_path, channels=("FLAIR", "T1w"), filters=filters)
        return [scan.images["FLAIR"].name.removeprefix("sub-1").removesuffix("_FLAIR.nii.gz") for scan in found.scans]

    assert stems({"flair": {"acquisition": "3D", "reconstruction": None, "datatype": "anat"}}) == ["_acq-3D"]
    assert stems({"FLAIR": {"acq": ["2D"], "run": 1}}) == ["_acq-2D_run-01"]
    assert stems({"FLAIR": {"acquisition": None}}) == [""]
    for wrong, sentence in (({"dwi": {}}, "filters for FLAIR"), ({"FLAIR": {"colour": "red"}}, "found colour")):
        file.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=sentence):
            read_filters(file, channels=("FLAIR", "T1w"))
