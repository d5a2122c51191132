"""Whatever bytes a file holds: an image that makes sense, or one sentence."""

import json

import numpy as np
import pytest
from damaged_images import damaged_files, whole_image

from lesionwise.errors import ImageFileError
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.volume import ScanName
from lesionwise.io.nifti import read_file_image
from lesionwise.io.references import find_references


def test_the_sound_image_is_read(tmp_path):
    (tmp_path / "a.nii").write_bytes(whole_image())
    found = read_file_image(tmp_path / "a.nii")
    assert found.position.notes == ()
    assert found.data[3, 2, 1] == 3 * 30 + 2 * 5 + 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damaged_headers_give_an_image_that_makes_sense_or_a_sentence(tmp_path):
    """Seeded; `python scripts/damaged_files.py --minutes 10` goes on for longer."""
    read = refused = 0
    for seed, path in damaged_files(tmp_path, range(400)):
        try:
            found = read_file_image(path)
        except ImageFileError as error:
            text = str(error)
            assert "\n" not in text, seed
            assert text.startswith("Expected "), (seed, text)
            assert text.endswith("."), (seed, text)
            refused += 1
            continue
        assert np.isfinite(found.data).all(), seed
        assert np.isfinite(found.affine).all(), seed
        assert min(voxel_sizes_mm(found.affine)) > 0.099, seed
        assert max(voxel_sizes_mm(found.affine)) < 10.1, seed
        read += 1
    assert read > 50
    assert refused > 50


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '"text"',
        '{"Manual": "yes"}',
        '{"Manual": null}',
        "[" * 100_000,
        "\x00\xff",
        "{}" * 3,
    ],
)
@pytest.mark.parametrize("name", ["sub-01/anat/sub-01_label-L_mask.json", "dataset_description.json"])
def test_damaged_sidecars_say_nothing(content, name, tmp_path):
    folder = tmp_path / "derivatives" / "manual"
    mask = folder / "sub-01/anat/sub-01_label-L_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"")
    (folder / name).write_text(content, encoding="latin-1")
    assert find_references(tmp_path).of(ScanName("01")) == mask


@pytest.mark.parametrize("generated", [3, "lst", [3], [None], [{"Name": 3}], {"Name": "x"}])
def test_descriptions_of_odd_shape_say_nothing(generated, tmp_path):
    folder = tmp_path / "derivatives" / "manual"
    mask = folder / "sub-01_label-L_mask.nii.gz"
    folder.mkdir(parents=True)
    mask.write_bytes(b"")
    (folder / "dataset_description.json").write_text(json.dumps({"GeneratedBy": generated}))
    assert find_references(tmp_path).of(ScanName("01")) == mask
