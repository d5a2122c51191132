"""The BIDS data set."""

from pathlib import Path

import numpy as np
import pytest

from lesionwise.errors import InputError
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.io.nifti import read_image
from lesionwise.phantom import synthesise, write_phantoms


def test_a_cohort_is_read_back_like_a_real_data_set(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    images = write_phantoms(
        tmp_path, subjects=2, seed=5, sessions=2, size="small", progress_fn=lambda *a: done.append(a)
    )
    assert done[-1] == (4, 4)
    found = find_scans(tmp_path, channels=("FLAIR", "T1w"))
    assert [s.images["FLAIR"] for s in found.scans] == images
    assert not found.left_out
    second = found.scans[1]
    assert second.reference is not None
    case = read_case(second.images, reference=second.reference)
    phantom = synthesise(5 * 1_000_003, visit=2, size="small")
    np.testing.assert_array_equal(case.reference, phantom.reference)
    np.testing.assert_allclose(case.image.data, phantom.image.data, atol=0.51)
    truth = tmp_path / "derivatives" / "truth" / "sub-phantom001" / "ses-2" / "anat"
    tissue, affine = read_image(truth / "sub-phantom001_ses-2_dseg.nii.gz")
    np.testing.assert_array_equal(tissue, phantom.tissue)
    np.testing.assert_allclose(affine, phantom.image.affine)
    people = (tmp_path / "participants.tsv").read_text().splitlines()
    assert people[0].startswith("participant_id\t")
    assert len(people) == 3
    for folder in (tmp_path, tmp_path / "derivatives" / "manual", tmp_path / "derivatives" / "truth"):
        assert (folder / "dataset_description.json").is_file()


def test_a_single_session_has_no_session_folder_and_strangers_are_refused(tmp_path: Path) -> None:
    (image,) = write_phantoms(tmp_path, subjects=1, size="small", n_lesions=2)
    assert image == tmp_path / "sub-phantom001" / "anat" / "sub-phantom001_FLAIR.nii.gz"
    (tmp_path / "sub-real").mkdir()
    with pytest.raises(InputError, match="sub-real"):
        write_phantoms(tmp_path, subjects=1, size="small")
    with pytest.raises(InputError, match="at least one"):
        write_phantoms(tmp_path / "other", subjects=0)
