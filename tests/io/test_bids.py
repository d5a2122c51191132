"""Scans are found by entity, paired within a session, and left out with a reason."""

import pytest

from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import find_scans


def _touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.fixture
def bids(tmp_path):
    _touch(
        tmp_path,
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_FLAIR.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-2_FLAIR.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-2_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_acq-3D_FLAIR.nii",
        "sub-02/ses-b/anat/sub-02_ses-b_MPRAGE.nii.gz",
        "sub-03/anat/sub-03_FLAIR.nii.gz",
        "sub-04/anat/sub-04_T1w.nii.gz",
        "sub-05/dwi/sub-05_dwi.nii.gz",
        "derivatives/manual/sub-01/anat/sub-01_label-L_mask.nii.gz",
        "derivatives/lst/sub-02/ses-b/anat/sub-02_ses-b_space-flair_seg-lst.nii.gz",
        "elsewhere/sub-01_mymask.nii.gz",
    )
    return tmp_path


def _find(bids, **options):
    return find_scans(bids, channels=("FLAIR", "T1w"), **options)


def test_all_scans_with_their_masks(bids):
    found = _find(bids)
    assert [scan.name.stem for scan in found.scans] == [
        "sub-01",
        "sub-02_ses-a_run-1",
        "sub-02_ses-a_run-2",
        "sub-02_ses-b_acq-3D",
    ]
    assert [scan.images["T1w"].name for scan in found.scans] == [
        "sub-01_T1w.nii.gz",
        "sub-02_ses-a_run-1_T1w.nii.gz",
        "sub-02_ses-a_run-2_T1w.nii.gz",
        "sub-02_ses-b_MPRAGE.nii.gz",
    ]
    assert [scan.reference.name if scan.reference else None for scan in found.scans] == [
        "sub-01_label-L_mask.nii.gz",
        None,
        None,
        "sub-02_ses-b_space-flair_seg-lst.nii.gz",
    ]


def test_unusable_scans_are_named_with_the_reason(bids):
    left_out = {scan.name: scan.reason for scan in _find(bids).left_out}
    assert left_out == {
        ScanName("03"): "no T1w image",
        ScanName("04"): "no FLAIR image",
        ScanName("05"): "no FLAIR or T1w image",
    }


@pytest.mark.parametrize("labels", [["02"], ["sub-02"]])
def test_both_spellings_of_a_participant(bids, labels):
    assert {scan.name.subject for scan in _find(bids, participants=labels).scans} == {"02"}


def test_session_and_filter(bids):
    assert [s.name.session for s in _find(bids, sessions=["ses-b"]).scans] == ["b"]
    found = _find(bids, filters={"FLAIR": {"run": "2"}})
    assert [s.name.stem for s in found.scans] == ["sub-02_ses-a_run-2"]


def test_reference_from_another_folder(bids):
    found = _find(bids, participants=["01"], reference_from=bids / "elsewhere")
    assert found.scans[0].reference.name == "sub-01_mymask.nii.gz"


def test_wrong_folders_and_participants_are_sentences(bids, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        _find(tmp_path / "nowhere")
    with pytest.raises(InputError, match="found none in"):
        _find(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no sub-99"):
        _find(bids, participants=["99"])
