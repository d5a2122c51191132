"""`lesionwise why` on a study: by one process or two the same table, kept lesion by lesion; one bad scan stops no other."""

import pandas as pd
import pytest

from lesionwise.cli.main import main
from lesionwise.io.derivative import ScanFiles, list_scans, read_why
from lesionwise.store import read_cohort


@pytest.fixture(scope="module")
def out(cohort, network, tmp_path_factory):
    """Two finished scans."""
    out = tmp_path_factory.mktemp("why") / "out"
    common = ["--model", str(network), "--method", "gradient", "--device", "cpu", "--participant-label", "01", "02"]
    assert main(["study", str(cohort), str(out), "participant", *common]) == 0
    return out


@pytest.fixture
def why(out, network, capsys):
    def call(*extra):
        asked = ["--evaluations", "0", "--lesions", "largest:2", "--no-report"]
        code = main(["why", str(out), "--model", str(network), *asked, *extra])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def tables(out):
    found = [read_why(ScanFiles(out, name)) for name in list_scans(out)]
    return None if any(one is None for one in found) else pd.concat(found).drop(columns="why_seconds")


def test_two_processes_say_what_one_does_and_what_is_finished_is_kept(why, out):
    code, said, _ = why("--device", "cpu")
    assert code == 0
    assert said.count("lesions,") == 2
    alone = tables(out)
    assert set(alone["outcome"]) == {"FN"}
    assert read_cohort(out)["why_passes"].notna().sum() == len(alone)  # beside the rows of the method that explained
    _, _, told = why("--device", "cpu")
    assert f"{len(alone)} of {len(alone)} parts of scans are finished already" in told
    assert "Why: up to" not in told  # nothing is timed where nothing is to do
    config = out / "config.toml"
    before = config.read_text()
    config.write_text(before.replace('target = "log_odds"', 'target = "probability"'))
    _, _, told = why("--device", "cpu", "--lesions", "1")
    config.write_text(before)
    assert "finished already" not in told  # asked in another unit
    code, _, _ = why("--device", "cpu", "--workers", "2", "--no-resume")
    assert code == 0
    pd.testing.assert_frame_equal(tables(out), alone, rtol=1e-4)
    one = str(alone["lesion"].max())
    assert why("--device", "cpu", "--lesions", one, "--no-resume")[0] == 0
    pd.testing.assert_frame_equal(tables(out), alone, rtol=1e-4)  # what was asked before is not lost


def test_a_scan_that_cannot_be_asked_is_left_out(why, out, cohort):
    files = ScanFiles(out, list_scans(out)[0])
    image = cohort / "sub-01/anat/sub-01_T1w.nii.gz"
    hidden = image.rename(image.with_suffix(".hidden"))
    try:
        files.remove_why()
        code, said, told = why("--device", "cpu", "--no-resume")
    finally:
        hidden.rename(image)
    assert code == 3
    assert "left out: sub-01: " in told
    assert "sub-01_T1w.nii.gz is missing" in told
    assert said.startswith("sub-02: 2 lesions")
    assert read_why(files) is None


def test_numbers_that_no_scan_has_are_one_sentence_each(why):
    code, said, told = why("--device", "cpu", "--lesions", "99")
    assert (code, said) == (3, "")
    assert told.count("Lesions 99 were asked for, but the scan has lesions 1 to 3.") == 2
