"""DICOM folders go through dcm2niix: the right series is chosen, and what is missing is said."""

import json
import os
import shutil
import sys

import numpy as np
import pytest

from lesionwise.cli.main import main
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.nifti import read_image
from lesionwise.prepare import scan
from lesionwise.prepare.dicom import convert_dicom

FAKE = """#!{python}
import json, pathlib, sys
import nibabel, numpy
folder = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
for number, facts in enumerate(json.loads(pathlib.Path(sys.argv[-1], "series.json").read_text())):
    size = facts.pop("size")
    data = numpy.random.default_rng(number).integers(0, 99, (size, size, size)).astype("int16")
    nibabel.save(nibabel.Nifti1Image(data, numpy.diag([1.0, 1.0, number + 1.0, 1.0])), folder / f"s{{number}}.nii.gz")
    (folder / f"s{{number}}.json").write_text(json.dumps(facts))
"""


@pytest.fixture
def series(tmp_path, monkeypatch):
    """Puts a dcm2niix on the path that makes what a test lists: number n has slices of n + 1 mm."""
    command = tmp_path / "bin" / "dcm2niix"
    command.parent.mkdir()
    command.write_text(FAKE.format(python=sys.executable))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")

    def put(*listed: dict):
        folder = tmp_path / "dicom"
        folder.mkdir(exist_ok=True)
        (folder / "series.json").write_text(json.dumps(listed))
        return folder

    return put


def slices_mm(path):
    return read_image(path)[1][2, 2]


def test_flair_and_t1w_are_told_by_their_names(series, tmp_path):
    folder = series(
        {"SeriesDescription": "localizer T1", "size": 30},
        {"SeriesDescription": "t2_tirm_tra_dark-fluid", "size": 20},
        {"SeriesDescription": "t1_mprage_sag", "size": 20},
        {"SeriesDescription": "T2 TSE", "size": 25},
    )
    found = convert_dicom(folder, tmp_path / "bids", ScanName("7"), channels=("FLAIR", "T1w"))
    assert {channel: slices_mm(path) for channel, path in found.items()} == {"FLAIR": 2.0, "T1w": 3.0}
    assert found["FLAIR"] == tmp_path / "bids/sub-7/anat/sub-7_FLAIR.nii.gz"
    assert found["FLAIR"].with_name("sub-7_FLAIR.json").is_file()
    assert (tmp_path / "bids/dataset_description.json").is_file()


def test_before_contrast_agent_original_and_larger_come_first(series, tmp_path):
    folder = series(
        {"SeriesDescription": "FLAIR", "size": 10},
        {"SeriesDescription": "T1 mprage", "ContrastBolusAgent": "Gd", "size": 30},
        {"SeriesDescription": "T1 mprage", "ImageType": ["DERIVED", "MIP"], "size": 30},
        {"SeriesDescription": "T1 small", "size": 8},
        {"SeriesDescription": "T1 mprage", "size": 20},
    )
    found = convert_dicom(folder, tmp_path / "bids", ScanName(), channels=("FLAIR", "T1w"))
    assert slices_mm(found["T1w"]) == 5.0


def test_a_t1_flair_is_a_t1w_and_a_missing_t1w_is_left_out(series, tmp_path):
    folder = series({"SeriesDescription": "Ax T1 FLAIR", "size": 10}, {"SeriesDescription": "Ax T2 FLAIR", "size": 10})
    found = convert_dicom(folder, tmp_path / "a", ScanName(), channels=("FLAIR", "T1w"))
    assert {channel: slices_mm(path) for channel, path in found.items()} == {"FLAIR": 2.0, "T1w": 1.0}
    alone = series({"SeriesDescription": "Ax T2 FLAIR", "size": 10})
    assert set(convert_dicom(alone, tmp_path / "b", ScanName(), channels=("FLAIR", "T1w"))) == {"FLAIR"}


def test_what_is_missing_is_said(series, tmp_path, monkeypatch):
    folder = series({"SeriesDescription": "T2 TSE", "size": 10})
    with pytest.raises(InputError, match=r"Expected a FLAIR series .* found T2 TSE"):
        convert_dicom(folder, tmp_path / "bids", ScanName(), channels=("FLAIR", "T1w"))
    with pytest.raises(InputError, match="dcm2niix made nothing of it"):
        convert_dicom(series(), tmp_path / "bids", ScanName(), channels=("FLAIR",))
    with pytest.raises(InputError, match="no folder"):
        convert_dicom(tmp_path / "nowhere", tmp_path / "bids", ScanName(), channels=("FLAIR",))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="dcm2niix to read DICOM files, but it is not installed"):
        convert_dicom(folder, tmp_path / "bids", ScanName(), channels=("FLAIR",))


@pytest.fixture
def dicom(tmp_path):
    """Writes series of random voxels as DICOM, to be read by the real dcm2niix; returns their folder and what is in them."""
    if shutil.which("dcm2niix") is None:
        pytest.skip("needs dcm2niix")
    pytest.importorskip("pydicom")
    from dicom_series import write_series

    rng = np.random.default_rng(0)
    written = {}
    for channel, description, shape, thickness in (
        ("FLAIR", "Ax T2 FLAIR", (40, 44, 12), 4.0),
        ("T1w", "t1_mprage_sag", (36, 38, 30), 1.2),
    ):
        data = rng.integers(1, 1000, shape).astype(np.uint16)
        affine = np.diag([-0.9, -0.8, thickness, 1.0])
        affine[:3, 3] = 40.0, 30.0, -10.0
        write_series(tmp_path / "dicom" / channel, data, affine, description=description)
        written[channel] = data, affine
    return tmp_path / "dicom", written


def assert_in_place(path, data, affine):
    """Every voxel of the file holds what was written at its place in the world."""
    back, placed = read_image(path)
    assert back.shape == data.shape
    homogeneous = np.vstack([np.indices(back.shape).reshape(3, -1), np.ones(back.size)])
    voxels = np.linalg.solve(affine, placed @ homogeneous)[:3]
    np.testing.assert_allclose(voxels, voxels.round(), atol=1e-3)
    assert np.array_equal(back.ravel(), data[tuple(voxels.round().astype(int))])


def test_real_dicom_series_are_told_apart_and_lie_where_they_were_written(dicom, tmp_path):
    folder, written = dicom
    found = convert_dicom(folder, tmp_path / "bids", ScanName(), channels=("FLAIR", "T1w"))
    for channel, (data, affine) in written.items():
        assert_in_place(found[channel], data, affine)


def test_a_real_dicom_folder_is_prepared_by_one_command(dicom, tmp_path, monkeypatch):
    folder, written = dicom
    monkeypatch.setattr("lesionwise.prepare.doubts.BRAIN_ML_ASIDE", (1.0, 2300.0))
    monkeypatch.setattr(scan, "correct_bias", lambda data, affine, brain: (data, 1.0))
    monkeypatch.setattr(scan, "whole_head", lambda volume: np.ones(volume.shape, dtype=bool))
    options = ["--dicom", str(folder), "--subject", "7", "--channel", "FLAIR", "--brain-extraction", "none"]
    assert main(["prepare", str(tmp_path / "bids"), str(tmp_path / "out"), *options]) == 0
    assert_in_place(tmp_path / "out/sub-7/anat/sub-7_desc-preproc_FLAIR.nii.gz", *written["FLAIR"])
