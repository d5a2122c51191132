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
        "derivatives/manual/sub-02/ses-b/anat/sub-02_ses-b_space-flair_label-L_mask.nii.gz",
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
        "sub-02_ses-b_space-flair_label-L_mask.nii.gz",
    ]


def test_a_channel_that_the_model_does_without_may_be_missing_and_that_is_said(bids):
    found = _find(bids, optional_channels=("T1w",))
    alone = next(scan for scan in found.scans if scan.name == ScanName("03"))
    assert list(alone.images) == ["FLAIR"]
    assert alone.notes == ("T1w: no image in the data set; the model does without.",)
    assert "T1w" in next(scan for scan in found.scans if scan.name == ScanName("01")).images
    assert {one.name for one in found.left_out} == {ScanName("04"), ScanName("05")}


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


A = "sub-01/anat/sub-01_"


def _scans(tmp_path, names, **options):
    """(name, T1w) of each scan, and the reasons of those left out."""
    _touch(tmp_path, *(f"{A}{name}.nii.gz" if "." not in name else f"{A}{name}" for name in names))
    found = _find(tmp_path, **options)
    stems = [scan.name.stem for scan in found.scans] + [left.name.stem for left in found.left_out]
    assert len(stems) == len(set(stems))
    return {s.name.stem: s.images["T1w"].name[len("sub-01_") : -len("_T1w.nii.gz")] for s in found.scans}, [
        left.reason for left in found.left_out
    ]


@pytest.mark.parametrize(
    ("names", "scans"),
    [
        (["rec-norm_FLAIR", "rec-raw_FLAIR", "T1w"], {"sub-01_rec-norm": "", "sub-01_rec-raw": ""}),
        (["ce-gad_FLAIR", "FLAIR", "T1w", "ce-gad_T1w"], {"sub-01": "", "sub-01_ce-gad": "ce-gad"}),
        (["echo-1_FLAIR", "echo-2_FLAIR", "T1w"], {"sub-01_echo-1": "", "sub-01_echo-2": ""}),
        (["part-mag_FLAIR", "part-phase_FLAIR", "T1w"], {"sub-01_part-mag": ""}),
        (["FLAIR", "ce-gad_T1w"], {"sub-01": "ce-gad"}),
        (["acq-3D_FLAIR", "acq-3D_ce-gad_T1w", "acq-mprage_T1w"], {"sub-01_acq-3D": "acq-mprage"}),
        (["run-1_FLAIR", "run-01_T1w", "run-02_T1w"], {"sub-01_run-1": "run-01"}),
        (["run-2_FLAIR", "run-01_T1w", "run-02_T1w"], {"sub-01_run-2": "run-02"}),
        (["FLAIR", "T1w", "space-FLAIR_T1w"], {"sub-01": "space-FLAIR"}),
        (["space-T1w_FLAIR", "T1w", "space-MNI_T1w"], {"sub-01": ""}),
        (["space-MNI_FLAIR", "space-MNI_T1w", "T1w"], {"sub-01": "space-MNI"}),
        (["desc-preproc_FLAIR", "desc-brain_T1w", "desc-preproc_T1w"], {"sub-01": "desc-preproc"}),
    ],
)
def test_which_images_belong_together(names, scans, tmp_path):
    assert _scans(tmp_path, names) == (scans, [])


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["FLAIR", "FLAIR.nii", "T1w"], '{"FLAIR": {"extension": ".nii"}}'),
        (["FLAIR", "space-T1w_FLAIR", "T1w"], '{"FLAIR": {"space": null}}'),
        (["desc-brain_FLAIR", "desc-preproc_FLAIR", "T1w"], '{"FLAIR": {"description": "brain"}}'),
        (["res-1_FLAIR", "res-2_FLAIR", "res-1_T1w"], '{"FLAIR": {"resolution": "1"}}'),
        (["FLAIR", "desc-a_T1w", "desc-b_T1w"], '{"T1w": {"description": "a"}}'),
        (["FLAIR", "space-MNI_T1w"], "choose images of one space and resolution with --bids-filter"),
        (["res-1_FLAIR", "res-2_T1w"], "choose images of one space and resolution with --bids-filter"),
    ],
)
def test_versions_of_one_scan_are_left_out_and_the_filter_is_named(names, advice, tmp_path):
    scans, reasons = _scans(tmp_path, names)
    assert scans == {}
    assert len(reasons) == 1
    assert advice in reasons[0]


def test_a_filter_as_advised_chooses(tmp_path):
    names = ["FLAIR", "space-T1w_FLAIR", "T1w", "desc-x_T1w"]
    filters = {"FLAIR": {"space": None}, "T1w": {"desc": None}}
    assert _scans(tmp_path, names, filters=filters) == ({"sub-01": ""}, [])
    assert (
        _scans(tmp_path, ["FLAIR.nii"], filters={"FLAIR": {"space": None, "extension": "nii.gz"}, **filters})[0] == {}
    )


def test_what_was_chosen_is_said(tmp_path):
    _touch(tmp_path, *(f"{A}{name}.nii.gz" for name in ("FLAIR", "acq-a_T1w", "acq-b_T1w")))
    _touch(tmp_path / "sub-02/anat", "sub-02_FLAIR.nii.gz", "sub-02_ce-gad_T1w.nii.gz")
    _touch(tmp_path / "sub-03/anat", "sub-03_FLAIR.nii.gz", "sub-03_T1w.nii.gz")
    several, agent, plain = (scan.notes for scan in _find(tmp_path).scans)
    assert several == ("T1w: sub-01_acq-a_T1w.nii.gz was taken; also there: sub-01_acq-b_T1w.nii.gz.",)
    assert agent == ("T1w: the image is after contrast agent (ce-gad), FLAIR is before it.",)
    assert plain == ()


def test_one_mask_for_two_runs_is_said(tmp_path):
    _touch(tmp_path, *(f"{A}{name}.nii.gz" for name in ("run-1_FLAIR", "run-2_FLAIR", "T1w")))
    _touch(tmp_path, "derivatives/manual/sub-01/anat/sub-01_label-L_mask.nii.gz")
    for scan in _find(tmp_path).scans:
        assert any("names none of the session's 2 scans" in note for note in scan.notes)


def test_linked_subjects_are_followed(tmp_path):
    _touch(tmp_path / "elsewhere", "anat/sub-01_FLAIR.nii.gz", "anat/sub-01_T1w.nii.gz")
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids/sub-01").symlink_to(tmp_path / "elsewhere")
    assert [scan.name.stem for scan in _find(tmp_path / "bids").scans] == ["sub-01"]
