"""Where a header puts an image, in mm; what it leaves open or contradicts is told or refused."""

import nibabel as nib
import numpy as np
import pytest

from lesionwise.errors import ImageFileError
from lesionwise.io.nifti import read_array, read_file_image, write_image

SHAPE = (6, 7, 8)
AFFINE = np.array([[1.0, 0, 0, -28], [0, 1.0, 0, -32], [0, 0, 1.0, -20], [0, 0, 0, 1]])


def _saved(path, *, sform=AFFINE, qform=AFFINE, codes=(1, 1), units=2):
    image = nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), None)
    image.header.set_sform(sform, codes[0])
    image.header.set_qform(qform, codes[1])
    image.header["xyzt_units"] = units
    nib.save(image, path)
    return path


def _shifted(*mm):
    moved = AFFINE.copy()
    moved[:3, 3] += mm
    return moved


def test_forms_that_agree_are_not_worth_a_word(tmp_path):
    found = read_file_image(_saved(tmp_path / "a.nii", qform=_shifted(0.05, 0, 0)))
    assert np.allclose(found.affine, AFFINE)
    assert found.position.notes == ()
    assert found.position.conflict == ""


def test_forms_that_disagree_are_told_and_the_sform_is_used(tmp_path):
    found = read_file_image(_saved(tmp_path / "a.nii", qform=_shifted(10, -5, 3), codes=(2, 1)))
    assert np.allclose(found.affine, AFFINE)
    assert "11.6 mm apart; the sform was used" in found.position.conflict
    assert found.position.notes == (found.position.conflict,)


def test_a_form_that_is_not_in_force_cannot_contradict(tmp_path):
    moved = _shifted(10, -5, 3)
    assert read_file_image(_saved(tmp_path / "a.nii", qform=moved, codes=(1, 0))).position.notes == ()
    found = read_file_image(_saved(tmp_path / "b.nii", qform=moved, codes=(0, 1)))
    assert np.allclose(found.affine, moved)
    assert found.position.notes == ()


def _half_turn():
    """Left and right swapped, handedness kept: turned by 180 degrees about the long axis."""
    turned = AFFINE.copy()
    turned[0], turned[1] = -turned[0], -turned[1]
    return turned


@pytest.mark.parametrize("other", [AFFINE * [[-1], [1], [1], [1]], _half_turn()])
def test_forms_that_swap_left_and_right_are_refused(other, tmp_path):
    path = _saved(tmp_path / "a.nii", qform=other, codes=(2, 1))
    with pytest.raises(ImageFileError, match="agree on which side is right"):
        read_array(path)


def test_a_mirrored_front_is_refused_too(tmp_path):
    """Of two affines that differ in handedness one shows the anatomy mirrored, whichever axis is flipped."""
    path = _saved(tmp_path / "a.nii", qform=AFFINE * [[1], [-1], [1], [1]])
    with pytest.raises(ImageFileError, match="agree on which side is right"):
        read_array(path)


def test_without_codes_no_side_is_known(tmp_path):
    found = read_file_image(_saved(tmp_path / "a.nii", codes=(0, 0)))
    assert not found.position.sided
    assert "which side is right is not known" in found.position.notes[0]


def test_codes_stay_0_in_what_is_written(tmp_path):
    path = tmp_path / "out.nii.gz"
    found = read_file_image(_saved(tmp_path / "a.nii", codes=(0, 0)))
    write_image(path, found.data, found.affine, sided=False)
    header = nib.load(path).header
    assert int(header["sform_code"]) == int(header["qform_code"]) == 0
    again = read_file_image(path)
    assert not again.position.sided
    assert np.allclose(again.affine, found.affine)


@pytest.mark.parametrize(("units", "word", "scale"), [(1, "metres", 1e-3), (3, "micrometres", 1e3)])
def test_units_of_the_header_are_honoured(units, word, scale, tmp_path):
    small = AFFINE.copy()
    small[:3] *= scale
    found = read_file_image(_saved(tmp_path / "a.nii", sform=small, qform=small, units=units))
    assert np.allclose(found.affine, AFFINE, atol=1e-4)
    assert word in found.position.notes[0]


@pytest.mark.parametrize("units", [0, 2, 4, 10])
def test_unknown_units_are_mm(units, tmp_path):
    assert np.allclose(read_array(_saved(tmp_path / "a.nii", units=units))[1], AFFINE)


@pytest.mark.parametrize(("scale", "units"), [(1e-3, 2), (0.05, 2), (11.0, 2), (1.0, 1), (1.0, 3), (7000.0, 0)])
def test_voxels_that_no_head_has_are_refused(scale, units, tmp_path):
    sized = AFFINE.copy()
    sized[:3] *= scale
    with pytest.raises(ImageFileError, match=r"Expected voxels of 0\.1 to 10 mm, found .* lengths in"):
        read_array(_saved(tmp_path / "a.nii", sform=sized, qform=sized, units=units))


def test_voxels_of_exactly_a_tenth_and_ten_mm_are_fine(tmp_path):
    for scale in (0.1, 10.0):
        sized = AFFINE.copy()
        sized[:3] *= scale
        assert np.allclose(read_array(_saved(tmp_path / "a.nii", sform=sized, qform=sized))[1], sized)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_an_affine_that_cannot_be_inverted_is_refused(bad, tmp_path):
    broken = AFFINE.copy()
    broken[0, 0] = bad
    with pytest.raises(ImageFileError, match="Expected an affine that can be inverted"):
        read_array(_saved(tmp_path / "a.nii", sform=broken))
