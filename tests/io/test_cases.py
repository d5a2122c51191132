"""Every way a file can be wrong gets one sentence that names it."""

import gzip

import numpy as np
import pytest

from lesionwise.errors import GridMismatchError, ImageFileError, InputError
from lesionwise.geometry.affine import to_mm
from lesionwise.geometry.volume import ScanName
from lesionwise.io.cases import guess_name, read_case
from lesionwise.io.masks import ReferenceRule
from lesionwise.io.nifti import read_image, write_image

SHAPE = (24, 26, 22)
AFFINE = np.array([[-1.0, 0, 0, 10], [0, 1.0, 0, -8], [0, 0, 1.0, 3], [0, 0, 0, 1]])


@pytest.fixture
def scan(tmp_path):
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    brain = sum(a**2 for a in axes) < 0.7
    rng = np.random.default_rng(0)
    paths = {}
    for name, level in (("FLAIR", 900.0), ("T1w", 700.0)):
        paths[name] = tmp_path / f"sub-07_ses-b_{name}.nii.gz"
        write_image(paths[name], (brain * (level + 30 * rng.normal(size=SHAPE))).astype(np.float32), AFFINE)
    paths["mask"] = tmp_path / "mask.nii.gz"
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[10:13, 11:14, 9:12] = 1
    write_image(paths["mask"], mask, AFFINE, dtype=np.uint8)
    return paths


def _images(scan):
    return {"FLAIR": scan["FLAIR"], "T1w": scan["T1w"]}


def test_reads_channels_reference_and_name(scan):
    case = read_case(_images(scan), reference=scan["mask"])
    assert case.image.channels == ("FLAIR", "T1w")
    assert case.reference.sum() == 27
    assert case.name == ScanName("07", "b")
    assert case.head[12, 13, 11]
    assert not case.head[0, 0, 0]


def test_reference_without_lesions_is_valid(scan):
    write_image(scan["mask"], np.zeros(SHAPE), AFFINE)
    assert not read_case(_images(scan), reference=scan["mask"]).reference.any()


def _break(what, scan, tmp_path):
    images, options = _images(scan), {}
    data, affine = read_image(scan["T1w"])
    if what == "missing":
        images["T1w"] = tmp_path / "no.nii.gz"
    elif what == "truncated":
        scan["T1w"].write_bytes(scan["T1w"].read_bytes()[:900])
    elif what == "text":
        scan["T1w"].write_text("hello")
    elif what == "bad gzip":
        scan["T1w"].write_bytes(gzip.compress(b"not an image"))
    elif what == "nan":
        data[12, 13, 11] = np.nan
        write_image(scan["T1w"], data, affine)
    elif what == "inf":
        data[3, 3, 3] = np.inf
        write_image(scan["T1w"], data, affine)
    elif what == "4-D":
        write_image(scan["T1w"], np.stack([data, data], axis=-1), affine)
    elif what == "constant":
        write_image(scan["T1w"], np.full(SHAPE, 4.0), affine)
    elif what == "other shape":
        write_image(scan["T1w"], data[:-1], affine)
    elif what == "other affine":
        affine[0, 3] += 2
        write_image(scan["T1w"], data, affine)
    elif what == "mask off grid":
        affine[0, 3] += 2
        write_image(scan["mask"], data > 0, affine, dtype=bool)
        options["reference"] = scan["mask"]
    elif what == "mask not labels":
        write_image(scan["mask"], data / 1000, affine)
        options["reference"] = scan["mask"]
    elif what == "an image as mask":
        options["reference"] = scan["T1w"]
    elif what == "empty brain mask":
        write_image(scan["mask"], data * 0, affine)
        options["brain_mask"] = scan["mask"]
    elif what == "no images":
        images = {}
    return images, options


@pytest.mark.parametrize(
    ("what", "error", "sentence"),
    [
        ("missing", ImageFileError, "no file"),
        ("truncated", ImageFileError, "damaged"),
        ("text", ImageFileError, "damaged"),
        ("bad gzip", ImageFileError, "damaged"),
        ("nan", ImageFileError, "in the head, found 1 NaN"),
        ("inf", ImageFileError, "1 infinite"),
        ("4-D", ImageFileError, "found 4-D"),
        ("constant", ImageFileError, "one value 4"),
        ("other shape", GridMismatchError, "--resample"),
        ("other affine", GridMismatchError, "--resample"),
        ("mask off grid", GridMismatchError, "reference"),
        ("mask not labels", ImageFileError, "--reference-threshold"),
        ("an image as mask", ImageFileError, "the T1w image itself"),
        ("empty brain mask", ImageFileError, "brain mask"),
        ("no images", InputError, "at least one image"),
    ],
)
def test_one_sentence_for_each_fault(what, error, sentence, scan, tmp_path):
    images, options = _break(what, scan, tmp_path)
    with pytest.raises(error, match=sentence) as caught:
        read_case(images, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "grid.)"))
    if what not in ("no images",):
        assert ".nii.gz" in message


def test_resample_brings_another_grid_onto_the_first(scan):
    """A ramp in world space is the same ramp after resampling, also from an oblique, coarser grid."""
    angle = 0.2
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    oblique = np.eye(4)
    oblique[:3, :3] = turn * 1.3
    oblique[:3, 3] = [-22, -14, -3]
    shape = (30, 30, 24)
    ramp = to_mm(np.argwhere(np.ones(shape)), oblique)[:, 0].reshape(shape) + 100
    write_image(scan["T1w"], ramp, oblique)
    case = read_case(_images(scan), resample=True)
    expected = to_mm(np.argwhere(np.ones(SHAPE)), AFFINE)[:, 0].reshape(SHAPE) + 100
    inside = case.image.channel("T1w") != 0
    middle = (slice(8, 16), slice(9, 17), slice(8, 14))
    assert inside[middle].all()
    assert np.abs(case.image.channel("T1w") - expected)[middle].max() < 1e-3
    assert any("resampled" in note for note in case.notes)


def test_nan_outside_the_head_becomes_0_and_is_told(scan):
    data, affine = read_image(scan["T1w"])
    data[0, :4, 0] = np.nan
    write_image(scan["T1w"], data, affine)
    case = read_case(_images(scan))
    assert (case.image.channel("T1w")[0, :4, 0] == 0).all()
    assert "T1w: 4 voxels outside the head held NaN and were set to 0." in case.notes


def test_one_file_for_two_channels_is_told(scan):
    case = read_case({"FLAIR": scan["FLAIR"], "T1w": scan["FLAIR"]})
    assert any("FLAIR and T1w hold the same image" in note for note in case.notes)
    assert not any("same image" in note for note in read_case(_images(scan)).notes)


def test_a_rounded_affine_is_the_same_grid_and_told(scan):
    data, affine = read_image(scan["T1w"])
    affine[0, 3] += 0.02
    write_image(scan["T1w"], data, affine)
    (note,) = [note for note in read_case(_images(scan)).notes if "tenth of a voxel" in note]
    assert "T1w lies 0.020 mm" in note


def test_a_scan_of_unknown_side_is_read_and_said_to_be(scan):
    for channel in ("FLAIR", "T1w"):
        data, affine = read_image(scan[channel])
        write_image(scan[channel], data, affine, sided=False)
    case = read_case(_images(scan))
    assert not case.sided
    assert sum("which side is right is not known" in note for note in case.notes) == 2


def test_one_channel_without_a_place_is_refused_and_never_resampled(scan):
    data, affine = read_image(scan["T1w"])
    write_image(scan["T1w"], data, affine, sided=False)
    for resample in (False, True):
        with pytest.raises(GridMismatchError, match="the header of the T1w does not say where it lies"):
            read_case(_images(scan), resample=resample)


def test_a_given_mask_that_cuts_lesions_is_told(scan):
    head = np.zeros(SHAPE, dtype=bool)
    head[4:12, 4:22, 4:18] = True
    write_image(scan["mask"].with_name("brain.nii.gz"), head, AFFINE, dtype=bool)
    case = read_case(_images(scan), reference=scan["mask"], brain_mask=scan["mask"].with_name("brain.nii.gz"))
    assert any("leaves out 9 of 27 voxels" in note for note in case.notes)
    assert any("cut into the brain" in note for note in case.notes)


def test_reference_rules_are_kept_for_sidecars(scan):
    two = np.zeros(SHAPE, dtype=np.uint8)
    two[10:13, 11:14, 9:12], two[5, 13, 11] = 1, 2
    write_image(scan["mask"], two, AFFINE, dtype=np.uint8)
    case = read_case(_images(scan), reference=scan["mask"], reference_rule=ReferenceRule((1.0,)))
    assert case.reference.sum() == 27
    assert case.reference_rule == {"Labels": [1.0]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-3_ses-x_acq-hi_run-2_FLAIR.nii.gz", ScanName("3", "x", "hi", "2")),
        ("sub-3_ce-gad_rec-norm_run-2_FLAIR.nii.gz", ScanName("3", run="2", more=(("ce", "gad"), ("rec", "norm")))),
        ("flair.nii", ScanName("01")),
    ],
)
def test_name_from_file(name, expected):
    assert guess_name(name) == expected


def test_writing_the_same_data_gives_the_same_bytes(tmp_path):
    data = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_image(tmp_path / name, data, AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    back, affine = read_image(tmp_path / "a.nii.gz")
    assert np.array_equal(back, data)
    assert np.allclose(affine, AFFINE)
