"""`lesionwise study` in process: plan, exit codes, labels in both spellings, and what the group level collects."""

import pytest

from lesionwise.cli.bids_app import spread_labels
from lesionwise.cli.main import main

VALUES = frozenset({"--participant-label", "--participant_label", "--model", "--session-label"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("B O participant --participant-label 01 02", "B O participant --participant-label 01 --participant-label 02"),
        ("--participant_label 01 B O participant", "--participant_label 01 B O participant"),
        (
            "B O --model m participant --participant_label 1 2 --session-label a b --dry-run",
            "B O --model m participant --participant_label 1 --participant_label 2 "
            "--session-label a --session-label b --dry-run",
        ),
        ("B O participant --participant-label", "B O participant --participant-label"),
    ],
)
def test_several_labels_after_one_flag(given, expected):
    assert spread_labels(given.split(), takes_value=VALUES, positionals=3) == expected.split()


@pytest.fixture
def study(cohort, network, capsys):
    def call(out, *extra, level="participant"):
        options = [] if level == "group" else ["--model", str(network), "--samples", "4", "--device", "cpu"]
        code = main(["study", str(cohort), str(out), level, *options, *extra])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_scans_left_out_are_told_with_code_3_and_the_group_level_collects(study, tmp_path):
    out = tmp_path / "out"
    code, said, told = study(out)
    assert code == 3
    assert "4 scans explained, 0 kept, 2 left out" in said
    assert "left out: sub-04: no T1w image" in told
    assert "sub-05_FLAIR.nii.gz" in told
    assert (out / "config.toml").is_file()
    code, said, _ = study(out, "--no-report", level="group")
    assert code == 0
    assert said.startswith("4 scans of 3 patients, 12 rows;")
    assert "2 scans left out" in said
    code, said, _ = study(out, "--participant_label", "01", "sub-02")
    assert code == 0  # what is wrong with others is not this run's concern
    assert "0 scans explained, 2 kept, 0 left out" in said


def test_dry_run_prints_the_plan_and_writes_nothing(study, tmp_path):
    out = tmp_path / "out"
    code, said, _ = study(out, "--dry-run", "--session-label", "a")
    assert code == 0
    lines = said.splitlines()
    assert lines[0] == "sub-03_ses-a: to do, 3 reference lesions"
    assert any(line.startswith("1 scan to do, 0 finished") for line in lines)
    assert any(line.startswith("Time: about") and "timed on this machine" in line for line in lines)
    assert any(line.startswith("Disk: about") for line in lines)
    assert not out.exists()


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--shard", "0/3"], "Expected --shard i/n"),
        (["--participant-label", "99"], "has no sub-99"),
        (["--session-label", "99"], "with the labels asked for, found none"),
        (["--triage", "nowhere.json"], "no file nowhere.json"),
        (["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "either --workers or --scheduler"),
        (["--workers", "4000"], "at most one worker per core"),
        (["--scheduler", "nowhere.json", "--device", "cpu"], "address such as tcp"),
        (["--reference-from", "nowhere"], "folder of reference masks"),
        (["--bids-filter", "nowhere.json"], "JSON file of filters"),
    ],
)
def test_mistakes_are_one_sentence_with_code_2(study, tmp_path, extra, sentence):
    code, _, told = study(tmp_path / "out", *extra)
    assert code == 2
    assert sentence in told
    assert "Traceback" not in told


def test_group_without_finished_scans_is_one_sentence(study, tmp_path):
    code, _, told = study(tmp_path, level="group")
    assert code == 2
    assert "Expected finished scans" in told


def test_a_share_without_scans_is_no_mistake(study, tmp_path):
    code, said, _ = study(tmp_path / "out", "--shard", "9/9", "--participant-label", "01")
    assert (code, said) == (0, "No scan falls to share 9/9.\n")
