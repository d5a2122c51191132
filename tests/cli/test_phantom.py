"""`lesionwise phantom`: a data set that the other commands take, and its options."""

import numpy as np
import pytest

from lesionwise.cli.main import main
from lesionwise.io.bids import find_scans
from lesionwise.io.nifti import read_image


def test_writes_a_data_set_with_references(tmp_path, capsys):
    assert main(["phantom", str(tmp_path), "--subjects", "2", "--size", "small"]) == 0
    assert "2 synthetic patients" in capsys.readouterr().out
    scans = find_scans(tmp_path, channels=("FLAIR", "T1w")).scans
    assert [scan.name.subject for scan in scans] == ["phantom001", "phantom002"]
    assert all(scan.reference is not None for scan in scans)


def test_wide_contrasts_are_other_images_of_the_same_anatomy(tmp_path):
    for folder, *more in (("usual",), ("wide", "--wide")):
        assert main(["phantom", str(tmp_path / folder), "--subjects", "1", "--size", "small", *more]) == 0
    usual, wide = (find_scans(tmp_path / f, channels=("FLAIR", "T1w")).scans[0] for f in ("usual", "wide"))
    images = [read_image(scan.images["FLAIR"])[0] for scan in (usual, wide)]
    masks = [read_image(scan.reference)[0] for scan in (usual, wide)]
    assert np.abs(images[0] - images[1]).max() > 0
    assert np.array_equal(masks[0], masks[1])


def test_a_folder_of_other_people_is_refused(tmp_path, capsys):
    (tmp_path / "sub-someone").mkdir()
    assert main(["phantom", str(tmp_path), "--subjects", "1", "--size", "small"]) == 2
    assert "sub-someone" in capsys.readouterr().err


def test_another_size_is_refused_and_nothing_is_written(tmp_path, capsys):
    for command in ("phantom", "demo"):
        assert main([command, str(tmp_path / "new"), "--size", "huge"]) == 2
        assert "full or small, found 'huge'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("demo", "OUT"),
        ("phantom", "OUT"),
        ("study", "BIDS", "OUT", "participant"),
        ("experiment", "peaks", "BIDS", "OUT"),
        ("evaluate", "BIDS", "-o", "OUT"),
        ("train", "BIDS", "-o", "OUT"),
    ],
)
def test_every_long_command_says_at_once_that_its_output_folder_is_a_file(tmp_path, capsys, command):
    file = tmp_path / "file"
    file.write_text("x")
    places = {"OUT": str(file), "BIDS": str(tmp_path)}
    assert main([places.get(part, part) for part in command]) == 2
    assert f"Expected a folder for the results, found the file {file}" in capsys.readouterr().err
