"""A study goes through whatever single scans do, and a second run does only what is missing or has changed."""

import json
import shutil
from dataclasses import replace

import pytest

from lesionwise.cohort import Shard, is_finished
from lesionwise.cohort.engines import AbstractEngine
from lesionwise.cohort.receipts import Receipt
from lesionwise.cohort.unit import Outcome, run_unit
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import list_scans, read_scan
from lesionwise.store import read_cohort
from lesionwise.study.left_out import left_out_list
from lesionwise.study.participant import run_participant

STEMS = ["sub-01", "sub-02", "sub-03_ses-a", "sub-03_ses-b"]


def _statuses(result):
    return {outcome.stem: outcome.status for outcome in result.outcomes}


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of a finished OUT that a test may spoil."""
    return shutil.copytree(undisturbed, tmp_path / "out")


def test_good_scans_are_explained_and_others_listed_with_the_reason(undisturbed):
    assert [name.stem for name in list_scans(undisturbed)] == STEMS
    rows = {scan: (found, reason) for scan, found, reason in left_out_list(undisturbed).read()}
    assert rows["sub-04"] == ("data set", "no T1w image")
    found, reason = rows["sub-05"]
    assert found == "run"
    assert "sub-05_FLAIR.nii.gz" in reason
    assert "damaged" in reason
    assert read_cohort(undisturbed)["scan"].unique().tolist() == STEMS
    for name in list_scans(undisturbed):
        scan = read_scan(undisturbed, name)
        assert len(scan.maps) == len(scan.lesions) == 3
        assert scan.lesions["peak_FLAIR"].notna().all()


def test_a_second_run_computes_nothing(make_run, finished):
    plan, tasks = make_run(finished)
    assert [is_finished(task.unit) for task in tasks] == [True] * 4 + [False]  # the damaged one is tried again
    told = []

    def forbidden(unit):
        told.append(unit.stem)
        return run_unit(unit)

    result = run_participant(plan, tasks, unit_fn=forbidden)
    assert told == ["sub-05"]
    assert _statuses(result) == {**dict.fromkeys(STEMS, "kept"), "sub-05": "left_out"}
    assert {stem for stem, _ in result.left_out} == {"sub-04", "sub-05"}


def test_inputs_with_new_time_stamps_but_equal_content_are_kept(make_run, cohort, finished, tmp_path):
    moved = shutil.copytree(cohort, tmp_path / "bids", copy_function=shutil.copyfile)
    _, tasks = make_run(finished, bids=moved, participants=["01"])
    assert not is_finished(tasks[0].unit)
    assert run_unit(tasks[0].unit).status == "kept"
    assert is_finished(tasks[0].unit)  # the new stamps are noted


def test_a_changed_reference_recomputes_that_scan_alone(make_run, cohort, finished, tmp_path):
    moved = shutil.copytree(cohort, tmp_path / "bids")
    reference = "derivatives/manual/sub-{0}/anat/sub-{0}_label-L_mask.nii.gz"
    shutil.copyfile(moved / reference.format("02"), moved / reference.format("01"))
    result = run_participant(*make_run(finished, bids=moved))
    assert _statuses(result) == {**dict.fromkeys(STEMS, "kept"), "sub-01": "done", "sub-05": "left_out"}
    assert read_scan(finished, ScanName("01")).lesions["volume_mm3"].tolist() == (
        read_scan(finished, ScanName("02")).lesions["volume_mm3"].tolist()
    )


def test_a_missing_map_is_computed_again_and_the_others_are_read_back(
    make_run, finished, undisturbed, assert_equal_outputs
):
    map_of = "sub-02/anat/sub-02_seg-lesions_label-002_desc-smoothgradmean_saliency.nii.gz"
    kept = finished / map_of.replace("002", "001")
    before = kept.stat().st_mtime_ns
    (finished / map_of).unlink()
    result = run_participant(*make_run(finished))
    assert _statuses(result)["sub-02"] == "done"
    assert kept.stat().st_mtime_ns == before
    assert_equal_outputs(finished, undisturbed)


def test_a_changed_number_of_samples_keeps_the_prediction(make_run, finished):
    probability = finished / "sub-01/anat/sub-01_label-L_probseg.nii.gz"
    before = probability.stat().st_mtime_ns
    result = run_participant(*make_run(finished, samples=6))
    assert result.count("done") == 4
    assert probability.stat().st_mtime_ns == before
    assert set(read_cohort(finished)["n_samples"]) == {6}


def test_other_instances_leave_no_map_of_the_old_ones(make_run, cohort, finished, tmp_path):
    moved = shutil.copytree(cohort, tmp_path / "bids")
    reference = moved / "derivatives/manual/sub-01/anat/sub-01_label-L_mask.nii.gz"
    reference.unlink()
    run_participant(*make_run(finished, bids=moved, participants=["01"]))
    scan = read_scan(finished, ScanName("01"))
    assert len(scan.lesions) == 0  # the network finds nothing by itself
    assert scan.maps == {}
    assert "sub-01" not in set(read_cohort(finished)["scan"])


def test_no_resume_computes_again_to_the_same_result(make_run, finished, undisturbed, assert_equal_outputs):
    map_file = finished / "sub-01/anat/sub-01_seg-lesions_label-001_desc-smoothgradmean_saliency.nii.gz"
    before = map_file.stat().st_mtime_ns
    result = run_participant(*make_run(finished, resume=False))
    assert result.count("done") == 4
    assert map_file.stat().st_mtime_ns > before
    assert_equal_outputs(finished, undisturbed)


def test_shards_share_the_work_without_overlap_and_agree_with_the_whole(
    make_run, tmp_path, undisturbed, assert_equal_outputs
):
    out = tmp_path / "out"
    seen = []
    for index in (1, 2, 3):
        result = run_participant(*make_run(out, shard=Shard(index, 3)))
        seen += [outcome.stem for outcome in result.outcomes]
    assert sorted(seen) == [*STEMS, "sub-05"]
    assert_equal_outputs(out, undisturbed)


@pytest.mark.parametrize("text", ["0/4", "5/4", "a/4", "3", "1/0", "-1/4"])
def test_a_shard_that_is_none_is_one_sentence(text):
    with pytest.raises(InputError, match="--shard i/n"):
        Shard.parse(text)


def test_shards_are_a_partition():
    scans = [f"scan{n}" for n in range(23)]
    parts = [Shard.parse(f"{i}/5").of(scans) for i in range(1, 6)]
    assert sorted(scan for part in parts for scan in part) == sorted(scans)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_subset_run_leaves_the_reasons_of_others_alone(make_run, finished):
    run_participant(*make_run(finished, participants=["01"]))
    assert {scan for scan, _, _ in left_out_list(finished).read()} == {"sub-04", "sub-05"}


def test_a_unit_that_raises_or_dies_is_a_reason_not_the_end(make_run, tmp_path):
    plan, tasks = make_run(tmp_path / "out")

    def faulty(unit):
        if unit.name.subject == "02":
            raise ZeroDivisionError("a fault of ours")
        return Outcome(unit.stem, "done")

    result = run_participant(plan, tasks, unit_fn=faulty)
    assert _statuses(result)["sub-02"] == "left_out"
    assert dict(result.left_out)["sub-02"] == "ZeroDivisionError: a fault of ours"
    noted = json.loads((tmp_path / "out/.lesionwise/study/left_out/sub-02.json").read_text())
    assert "Traceback" in noted["Details"]


def test_scans_in_other_hands_are_asked_for_again(make_run, tmp_path, monkeypatch):
    plan, tasks = make_run(tmp_path / "out", participants=["01", "02"])
    asked: dict[str, int] = {}

    def busy_twice(unit):
        stem = unit.stem
        asked[stem] = asked.get(stem, 0) + 1
        return Outcome(stem, "busy" if stem == "sub-02" and asked[stem] < 3 else "done")

    monkeypatch.setattr("lesionwise.cohort.runner.WAIT_S", (0.01, 0.02))
    result = run_participant(plan, tasks, unit_fn=busy_twice)
    assert asked == {"sub-01": 1, "sub-02": 3}
    assert _statuses(result) == {"sub-01": "done", "sub-02": "done"}


def test_another_model_under_the_same_name_is_refused(make_run, tmp_path):
    _, tasks = make_run(tmp_path / "out", participants=["01"])
    changed = replace(tasks[0], model=replace(tasks[0].model, fingerprint="0123456789abcdef"))
    outcome = run_unit(changed.unit)
    assert outcome.status == "left_out"
    assert "0123456789abcdef" in outcome.reason


def test_a_broken_receipt_is_no_receipt(make_run, finished):
    _, tasks = make_run(finished, participants=["01"])
    tasks[0].unit.receipt_path.write_text('{"Key": "abc", "Inputs": [')
    assert Receipt.read(tasks[0].unit.receipt_path) is None
    assert run_unit(tasks[0].unit).status == "done"


def test_results_in_any_order_are_told_by_scan(make_run, tmp_path):
    plan, tasks = make_run(tmp_path / "out")

    class Backwards(AbstractEngine):
        description = "backwards"

        def run(self, tasks, unit_fn):
            for index in reversed(range(len(tasks))):
                yield index, unit_fn(tasks[index])

    result = run_participant(plan, tasks, engine=Backwards(), unit_fn=lambda unit: Outcome(unit.stem, "done"))
    assert [outcome.stem for outcome in result.outcomes] == [*STEMS, "sub-05"]
