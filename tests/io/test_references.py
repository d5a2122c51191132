"""Reference masks under the names that people and programs give them."""

import json
from pathlib import Path

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
        "sub-01_label-lesion_desc-rater1_mask.nii.gz",
        "sub-01_space-flair_label-L_mask.nii.gz",
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
        "sub-01_ses-a_desc-lesion_mask.nii.gz",
        "sub-01_ses-a_run-1_label-L_mask.nii.gz",
        "sub-01_ses-a_run-02_label-L_mask.nii.gz",
    )
    found = find_references(tmp_path)
    assert found.of(ScanName("01", "a", run="2")).name == "sub-01_ses-a_run-02_label-L_mask.nii.gz"
    assert found.of(ScanName("01", "a", run="3")).name == "sub-01_ses-a_desc-lesion_mask.nii.gz"
    assert found.of(ScanName("01", "b")) is None


FLAIR = {"suffix": "FLAIR"}


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["auto/sub-01/anat/sub-01_label-L_mask", "manual/sub-01/anat/sub-01_label-L_mask"], "manual"),
        (["m/sub-01_desc-rater1_label-L_mask", "m/sub-01_desc-consensus_label-L_mask"], "desc-consensus"),
        (["m/sub-01_desc-rater2_label-L_mask", "m/sub-01_desc-rater1_label-L_mask"], "desc-rater1"),
        (["m/sub-01_space-T1w_label-L_mask", "m/sub-01_label-lesion_mask"], "sub-01_label-lesion"),
        (["m/sub-01_label-L_dseg", "m/sub-01_label-L_mask"], "label-L_mask"),
    ],
)
def test_of_several_masks_the_best_is_taken_and_said(names, taken, tmp_path):
    _touch(tmp_path / "derivatives", *(f"{name}.nii.gz" for name in names))
    choice = find_references(tmp_path).choose(ScanName("01"), FLAIR)
    assert taken in str(choice.path)
    several = len(names) - sum("space-T1w" in name for name in names)
    assert len(choice.notes) == int(several > 1)
    if several > 1:
        assert f"{choice.path.name} was taken; also there:" in choice.notes[0]


def test_the_masks_own_sidecar_says_who_made_it(tmp_path):
    one, other = (tmp_path / f"derivatives/{name}/sub-01/anat" for name in ("a", "b"))
    _touch(one, "sub-01_label-L_mask.nii.gz")
    _touch(other, "sub-01_label-L_mask.nii.gz")
    (one / "sub-01_label-L_mask.json").write_text('{"Manual": false}')
    (other / "sub-01_label-L_mask.json").write_text('{"Manual": true}')
    assert "derivatives/b" in str(find_references(tmp_path).of(ScanName("01")))


@pytest.mark.parametrize(
    ("folder", "name", "generator"),
    [
        ("lst", "sub-01_space-flair_seg-lst.nii.gz", None),
        ("mine", "sub-01_space-flair_seg-lst.nii.gz", None),
        ("samseg", "sub-01_label-L_mask.nii.gz", None),
        ("mine", "sub-01_label-L_mask.nii.gz", "LST-AI"),
    ],
)
def test_what_a_program_made_is_a_reference_only_where_it_is_named(folder, name, generator, tmp_path):
    root = tmp_path / "derivatives" / folder
    _touch(root, f"sub-01/anat/{name}")
    if generator is not None:
        (root / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": generator}]}))
    choice = find_references(tmp_path).choose(ScanName("01"), FLAIR)
    assert choice.path is None
    assert "made by a program: it is a reference only with --reference-from" in choice.notes[0]
    assert find_references(tmp_path, root).choose(ScanName("01"), FLAIR).path.name == name


def test_a_mask_of_another_space_leaves_the_scan_out(tmp_path):
    _touch(tmp_path, "derivatives/m/sub-01/anat/sub-01_space-T1w_label-L_mask.nii.gz")
    choice = find_references(tmp_path).choose(ScanName("01"), FLAIR)
    assert choice.path is None
    assert "lies in the space T1w, its images in its own space" in choice.problem
    assert find_references(tmp_path).choose(ScanName("01"), {"suffix": "FLAIR", "space": "T1w"}).path is not None


def test_linked_folders_are_followed_once(tmp_path):
    kept = _touch(tmp_path / "elsewhere", "sub-01/anat/sub-01_label-L_mask.nii.gz")
    (tmp_path / "bids/derivatives").mkdir(parents=True)
    (tmp_path / "bids/derivatives/manual").symlink_to(kept)
    (kept / "sub-01/round").symlink_to(kept)  # a circle
    choice = find_references(tmp_path / "bids").choose(ScanName("01"), FLAIR)
    assert choice.path.name == "sub-01_label-L_mask.nii.gz"
    assert choice.notes == ()


def test_none_in_place_of_a_folder_finds_nothing(tmp_path):
    _touch(tmp_path, "derivatives/manual/sub-01/anat/sub-01_label-L_mask.nii.gz")
    assert find_references(tmp_path, Path("none")).of(ScanName("01")) is None


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
