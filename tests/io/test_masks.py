"""What counts as lesion is never guessed: 0 and one other value, or a rule from whoever made the mask."""

import numpy as np
import pytest
from scipy import ndimage

from lesionwise.errors import GridMismatchError, ImageFileError, InputError
from lesionwise.io.masks import ReferenceRule, check_reference, read_brain_mask, read_reference
from lesionwise.io.nifti import read_file_image, write_image

SHAPE = (30, 32, 28)
AFFINE = np.array([[1.0, 0, 0, -15], [0, 1.0, 0, -16], [0, 0, 1.0, -10], [0, 0, 0, 1]])
LIKE = (SHAPE, AFFINE)
LESIONS = np.zeros(SHAPE, dtype=np.uint8)
LESIONS[5:9, 5:9, 5:9] = 1
LESIONS[20:23, 20:23, 10:13] = 1
TRUE = int(LESIONS.sum())
BRAIN = np.zeros(SHAPE, dtype=bool)
BRAIN[2:28, 2:30, 2:26] = True


def _read(tmp_path, data, *, labels=(), threshold=None, name="mask.nii.gz", affine=AFFINE, **options):
    path = tmp_path / name
    write_image(path, data, affine, dtype=np.asarray(data).dtype.type)
    return read_reference(path, like=LIKE, rule=ReferenceRule(labels, threshold), **options)


def _soft(scale):
    return scale * ndimage.gaussian_filter(LESIONS.astype(np.float32), 1.2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (LESIONS, None),
        (LESIONS * 255, "its one value besides 0, 255"),
        (LESIONS * np.float32(10.921457), "10.9215"),
        (LESIONS * np.float32(0.99999), "0.99999"),
        (np.where(LESIONS > 0, 1.0, np.nan).astype(np.float32), "NaN"),
    ],
)
def test_0_and_one_other_value_is_a_mask(data, said, tmp_path):
    mask, notes = _read(tmp_path, data)
    assert np.array_equal(mask, LESIONS > 0)
    assert (said is None and notes == []) or said in " ".join(notes)


def test_no_lesion_is_a_result(tmp_path):
    assert not _read(tmp_path, np.zeros(SHAPE, dtype=np.uint8))[0].any()


def _two_pathologies():
    data = LESIONS.copy()
    data[12:16, 12:16, 18:22] = 2
    return data


def _samseg():
    data = np.where(BRAIN, 41, 0).astype(np.int32)
    data[:15][BRAIN[:15]] = 2
    data[LESIONS > 0] = 99
    return data


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (_two_pathologies(), "--reference-label 2"),
        (_samseg(), "--reference-label 99"),
        (LESIONS.astype(np.int16) * 2 - 1, "--reference-label 1"),
        (np.round(_soft(255)).astype(np.uint8), "--reference-threshold"),
        (np.round(_soft(100)).astype(np.int16), "--reference-threshold"),
        (_soft(1), "--reference-threshold"),
    ],
)
def test_anything_else_needs_a_rule_and_the_sentence_names_it(data, advice, tmp_path):
    with pytest.raises(ImageFileError, match=advice):
        _read(tmp_path, data)


def test_labels_and_thresholds_choose(tmp_path):
    assert np.array_equal(_read(tmp_path, _two_pathologies(), labels=(1,))[0], LESIONS > 0)
    assert _read(tmp_path, _two_pathologies(), labels=(1, 2))[0].sum() == TRUE + 64
    assert np.array_equal(_read(tmp_path, _samseg(), labels=(99,))[0], LESIONS > 0)
    soft = _soft(1)
    mask, notes = _read(tmp_path, soft, threshold=0.5)
    assert np.array_equal(mask, soft > 0.5)
    assert "above 0.5 count as lesion" in notes[0]
    assert not _read(tmp_path, LESIONS, labels=(7,))[0].any()  # a scan without that pathology


@pytest.mark.parametrize(
    ("labels", "threshold", "sentence"),
    [
        ("1,2", 0.5, "found both"),
        ("0", None, "which is the background"),
        ("one", None, "numbers such as 1,2"),
        ("", None, "numbers such as 1,2"),
        ("nan", None, "numbers such as 1,2"),
        (None, float("nan"), "to be a number"),
    ],
)
def test_rules_that_make_no_sense_are_sentences(labels, threshold, sentence):
    with pytest.raises(InputError, match=sentence):
        ReferenceRule.read(labels, threshold)


def test_a_rule_comes_back_from_its_sidecar():
    for rule in (ReferenceRule(), ReferenceRule((1.0, 2.0)), ReferenceRule(threshold=0.5)):
        assert ReferenceRule.of_facts(rule.facts) == rule
    assert ReferenceRule.of_facts(None) == ReferenceRule()
    with pytest.raises(InputError, match="sidecar"):
        ReferenceRule.of_facts({"Labels": "abc"})


def test_our_numbered_lesions_are_recognised_and_controls_are_healthy(tmp_path):
    numbered, _ = ndimage.label(LESIONS)
    numbered = numbered.astype(np.int16)
    numbered[24:26, 24:26, 20:22] = 3
    table = "index\tname\toutcome\tsource\n1\ta\tTP\tprediction\n2\tb\tFN\treference\n3\tc\tTN\tcontrol\n"
    name = "sub-01_seg-lesions_dseg.nii.gz"
    assert _read(tmp_path, numbered, name=name)[0].sum() == TRUE + 8
    (tmp_path / "sub-01_seg-lesions_dseg.tsv").write_text(table)
    mask, notes = _read(tmp_path, numbered, name=name)
    assert np.array_equal(mask, LESIONS > 0)
    assert "2 numbered lesions, all taken as lesion, 1 control regions left out" in notes[0]
    with pytest.raises(ImageFileError, match="--reference-label"):
        _read(tmp_path, numbered, name="mask.nii.gz")


def test_what_fills_the_head_is_no_lesion(tmp_path):
    assert check_reference(LESIONS > 0, BRAIN, path="mask.nii.gz") == []
    with pytest.raises(ImageFileError, match="at most 20 % of the head"):
        check_reference(BRAIN, BRAIN, path="mask.nii.gz")
    with pytest.raises(ImageFileError, match="at most 20 % of the head"):
        check_reference(LESIONS == 0, BRAIN, path="mask.nii.gz")
    with pytest.raises(ImageFileError, match="holds 1 in every voxel"):
        _read(tmp_path, np.ones(SHAPE, dtype=np.uint8))


def test_a_head_that_cuts_lesions_is_told():
    head = BRAIN.copy()
    head[:7] = False  # half of the first lesion
    (note,) = check_reference(LESIONS > 0, head, path="mask.nii.gz")
    assert f"leaves out 32 of {TRUE} voxels" in note


def test_a_tenth_of_a_voxel_is_the_same_grid_and_told(tmp_path):
    for shift, told in ((0.0005, False), (0.01, True), (0.09, True)):
        moved = AFFINE.copy()
        moved[0, 3] += shift
        mask, notes = _read(tmp_path, LESIONS, affine=moved)
        assert mask.sum() == TRUE
        assert bool(notes) is told
    moved[0, 3] = AFFINE[0, 3] + 0.11
    with pytest.raises(GridMismatchError, match="--resample"):
        _read(tmp_path, LESIONS, affine=moved)


def test_a_tenth_is_counted_along_each_axis_of_its_own_voxels(tmp_path):
    """Half a millimetre is little across slices of 6 mm, and much within them."""
    thick = np.diag([0.9, 0.9, 6.0, 1.0])
    path = tmp_path / "mask.nii.gz"
    for axis, fits in ((2, True), (0, False)):
        moved = thick.copy()
        moved[axis, 3] += 0.5
        write_image(path, LESIONS, moved, dtype=np.uint8)
        if fits:
            assert read_reference(path, like=(SHAPE, thick))[0].sum() == TRUE
        else:
            with pytest.raises(GridMismatchError):
                read_reference(path, like=(SHAPE, thick))


def test_resample_brings_masks_by_nearest_neighbour(tmp_path):
    """Every voxel of a mask at half the voxel size is met by a voxel of its own: values are never mixed."""
    fine = np.repeat(np.repeat(np.repeat(_two_pathologies(), 2, 0), 2, 1), 2, 2)
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= 0.2  # so that no centre lies on an edge
    mask, notes = _read(tmp_path, fine, affine=affine, labels=(1,), resample=True)
    assert np.array_equal(mask, LESIONS > 0)
    assert any("nearest neighbour" in note for note in notes)
    brain = tmp_path / "brain.nii.gz"
    write_image(brain, fine > 0, affine, dtype=bool)
    assert np.array_equal(read_brain_mask(brain, like=LIKE, resample=True)[0], _two_pathologies() > 0)


def test_a_mask_elsewhere_is_not_resampled_to_nothing(tmp_path):
    affine = AFFINE.copy()
    affine[0, 3] += 500
    with pytest.raises(GridMismatchError, match="overlap"):
        _read(tmp_path, LESIONS, affine=affine, resample=True)


def test_a_mismatch_names_the_header_that_may_be_why(tmp_path):
    import nibabel as nib

    flair = nib.Nifti1Image(np.ones(SHAPE, dtype=np.float32), None)
    moved = AFFINE.copy()
    moved[:3, 3] += [10, -5, 3]
    flair.header.set_sform(AFFINE, 2)
    flair.header.set_qform(moved, 1)
    nib.save(flair, tmp_path / "flair.nii")
    write_image(tmp_path / "mask.nii.gz", LESIONS, moved, dtype=np.uint8)
    first = read_file_image(tmp_path / "flair.nii")
    for resample in (False, True):  # by the qform it is aligned as it is: moving it by the sform would be wrong
        with pytest.raises(GridMismatchError, match=r"its sform and its qform lie up to 11\.6 mm apart") as caught:
            read_reference(tmp_path / "mask.nii.gz", like=first, resample=resample)
        assert "--resample" not in str(caught.value)
    write_image(tmp_path / "mask.nii.gz", LESIONS, AFFINE, dtype=np.uint8, sided=False)
    with pytest.raises(GridMismatchError, match="does not say where it lies"):
        read_reference(tmp_path / "mask.nii.gz", like=first, resample=True)


def test_brain_masks_are_labels_with_voxels_inside(tmp_path):
    path = tmp_path / "brain.nii.gz"
    write_image(path, _samseg(), AFFINE, dtype=np.int32)
    assert np.array_equal(read_brain_mask(path, like=LIKE)[0], BRAIN | (LESIONS > 0))
    for data, sentence in ((_soft(1), "whole numbers"), (LESIONS * 0, "with voxels inside")):
        write_image(path, data, AFFINE)
        with pytest.raises(ImageFileError, match=sentence):
            read_brain_mask(path, like=LIKE)
