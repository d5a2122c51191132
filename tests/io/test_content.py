"""Files are opened by what they hold; whatever is not an image is told in one sentence."""

import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from lesionwise.errors import ImageFileError
from lesionwise.io.nifti import read_array, read_file_image, read_image, write_image

AFFINE = np.array([[-1.0, 0, 0, 10], [0, 1.0, 0, -8], [0, 0, 1.0, 3], [0, 0, 0, 1]])
DATA = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.nii"
    write_image(path, DATA, AFFINE)
    return path


def test_gzipped_nii_and_plain_nii_gz_are_read_by_content(image, tmp_path):
    packed, plain = tmp_path / "packed.nii", tmp_path / "plain.nii.gz"
    packed.write_bytes(gzip.compress(image.read_bytes()))
    plain.write_bytes(image.read_bytes())
    for path in (packed, plain):
        data, affine = read_image(path)
        assert np.array_equal(data, DATA)
        assert np.array_equal(affine, AFFINE)


def test_nifti_2_and_two_files_and_big_endian(tmp_path):
    second = tmp_path / "second.nii.gz"
    nib.save(nib.Nifti2Image(DATA, AFFINE), second)
    pair = tmp_path / "pair.hdr"
    nib.save(nib.Nifti1Pair(DATA, AFFINE), pair)
    swapped = tmp_path / "swapped.nii"
    nib.save(nib.Nifti1Image(DATA, AFFINE, header=nib.Nifti1Header(endianness=">")), swapped)
    for path in (second, pair, swapped):
        data, affine = read_array(path)
        assert np.array_equal(data, DATA)
        assert np.array_equal(affine, AFFINE)


def _pointer(path):
    path.write_text("/annex/objects/MD5E-s12345--0123456789abcdef.nii.gz\n")


def _locked(path):
    path.symlink_to("../.git/annex/objects/xx/yy/MD5E-s1--0.nii.gz")


def _lfs(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def _link(path):
    path.symlink_to("elsewhere.nii.gz")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_pointer, "content is not here.*git annex get scan.nii.gz"),
        (_locked, "content is not here.*datalad get scan.nii.gz"),
        (_lfs, "content is not here.*git lfs pull"),
        (_link, "link to elsewhere.nii.gz, which is not there"),
        (lambda path: path.mkdir(), "found the folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("hello"), "is damaged or not one"),
        (lambda path: path.write_bytes(gzip.compress(b"not an image")), "is damaged or not one"),
        (lambda path: None, "there is no file"),
    ],
)
def test_what_is_no_image_is_told_in_one_sentence(make, sentence, tmp_path):
    path = tmp_path / "scan.nii.gz"
    make(path)
    with pytest.raises(ImageFileError, match=sentence) as caught:
        read_array(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def _patched(image, place, kind, value):
    content = bytearray(image.read_bytes())
    content[place : place + struct.calcsize(kind)] = struct.pack(kind, value)
    return bytes(content)


@pytest.mark.parametrize(
    ("place", "kind", "value", "sentence"),
    [
        (70, "<h", 9999, "its header makes no sense"),  # datatype
        (42, "<h", -3, "damaged"),  # dim[1]
        (42, "<h", 32000, "its header speaks of 32000 x 6 x 7 voxels"),
        (112, "<f", 1e38, "too large for float32"),  # scl_slope
        (80, "<f", 1e-7, "Expected voxels of 0.1 to 10 mm"),  # only where the qform is used, see below
    ],
)
def test_header_faults_are_sentences(place, kind, value, sentence, image):
    content = bytearray(_patched(image, place, kind, value))
    content[254:256] = struct.pack("<h", 0)  # sform_code: the qform, which hangs on pixdim, is used
    image.write_bytes(bytes(content))
    with pytest.raises(ImageFileError, match=sentence) as caught:
        read_file_image(image)
    assert str(image) in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["cut.nii", "cut.nii.gz"])
def test_truncated_files_are_sentences(share, name, image, tmp_path):
    content = image.read_bytes() if name.endswith(".nii") else gzip.compress(image.read_bytes())
    path = tmp_path / name
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageFileError, match="damaged"):
        read_file_image(path)


def test_a_header_that_speaks_of_more_than_memory_holds_is_refused_before_it_is_taken(tmp_path):
    """A packed file could hold 1000 times its size; what it says must fit both into that and into memory."""
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "huge.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4 + 100)))
    with pytest.raises(ImageFileError, match="30000 x 30000 x 30000 voxels"):
        read_file_image(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(image):
    image.chmod(0)
    with pytest.raises(ImageFileError, match="may not be read"):
        read_file_image(image)


def test_nan_is_zero_and_told_and_infinity_is_refused(tmp_path):
    data = DATA.copy()
    data[0, 0, :3] = np.nan
    path = tmp_path / "nan.nii.gz"
    write_image(path, data, AFFINE)
    found = read_file_image(path)
    assert found.missing.sum() == 3
    assert np.array_equal(found.data, np.nan_to_num(data))
    with pytest.raises(ImageFileError, match="3 NaN voxels"):
        read_image(path)
    data[1, 1, 1] = np.inf
    write_image(path, data, AFFINE)
    with pytest.raises(ImageFileError, match="1 infinite voxels"):
        read_file_image(path)
