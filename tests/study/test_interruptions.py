"""Killed at any moment, run twice at once, spread over processes or a cluster: OUT ends up the same, byte for byte."""

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from dask_cluster import dask_cluster
from study_runs import die_at_rename, run

from lesionwise.cohort.engines import DaskCluster, LocalProcesses
from lesionwise.cohort.unit import run_unit
from lesionwise.study.participant import run_participant

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["study_runs"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_and_run_again(
    make_run, cohort, network, undisturbed, assert_equal_outputs, tmp_path, seed
):
    out, rng, kills = tmp_path / "out", random.Random(seed), 0
    while kills < 12:
        process = SERVER.Process(target=run, args=(cohort, network, out))
        process.start()
        process.join(rng.uniform(0.02, 0.9))
        if not process.is_alive():
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills > 0
    run(cohort, network, out)
    assert_equal_outputs(out, undisturbed)


@pytest.mark.slow
def test_killed_before_every_single_file_is_in_place(
    make_run, cohort, network, undisturbed, assert_equal_outputs, tmp_path
):
    """Not at random: one scan, killed at the 1st, 2nd, 3rd, ... file that is about to get its final name."""
    out, finished, step = tmp_path / "out", False, 0
    while not finished:
        process = SERVER.Process(target=die_at_rename, args=(cohort, network, out, step))
        process.start()
        process.join()
        finished = process.exitcode == 0
        assert finished or process.exitcode == -signal.SIGKILL
        step += 1
    assert step > 8
    run(cohort, network, out)
    assert_equal_outputs(out, undisturbed)


@pytest.mark.slow
def test_killed_after_the_first_finished_scan(make_run, cohort, network, undisturbed, assert_equal_outputs, tmp_path):
    """What was finished stays as it is, to the byte and the time; the next run makes the others only."""
    out = tmp_path / "out"
    process = SERVER.Process(target=run, args=(cohort, network, out))
    process.start()
    receipts = out / ".lesionwise" / "study" / "receipts"
    deadline = time.time() + 120
    while (
        not (receipts.is_dir() and any(receipts.glob("[!.]*.json"))) and process.is_alive() and time.time() < deadline
    ):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    finished = {path.stem for path in receipts.glob("[!.]*.json")}
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("sub-*_saliency.nii.gz")}
    mine = {p: kept for p, kept in before.items() if any(p.name.startswith(f"{stem}_seg") for stem in finished)}
    result = run_participant(*make_run(out))
    assert {one.stem for one in result.outcomes if one.status == "kept"} == finished
    assert 1 <= len(finished) < 4
    assert result.count("done") == 4 - len(finished)
    assert mine
    assert all((p.stat().st_mtime_ns, p.read_bytes()) == kept for p, kept in mine.items())
    assert_equal_outputs(out, undisturbed)


@pytest.mark.slow
def test_two_runs_on_one_out_share_the_work(make_run, cohort, network, undisturbed, assert_equal_outputs, tmp_path):
    out, report = tmp_path / "out", SERVER.SimpleQueue()
    processes = [SERVER.Process(target=run, args=(cohort, network, out, report)) for _ in range(2)]
    for process in processes:
        process.start()
    told = dict(report.get() for _ in processes)
    for process in processes:
        process.join()
    done = [stem for outcomes in told.values() for stem, status in outcomes if status == "done"]
    assert sorted(done) == ["sub-01", "sub-02", "sub-03_ses-a", "sub-03_ses-b"]  # each once, by one of the two
    assert_equal_outputs(out, undisturbed)


@pytest.mark.slow
def test_a_run_takes_over_from_one_that_was_killed(
    make_run, cohort, network, undisturbed, assert_equal_outputs, tmp_path
):
    out = tmp_path / "out"
    first = SERVER.Process(target=run, args=(cohort, network, out))
    first.start()
    claims = out / ".lesionwise" / "study" / "claims"
    deadline = time.time() + 20
    while not (claims.is_dir() and any(claims.iterdir())) and time.time() < deadline:
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert any(claims.iterdir())  # it died with a scan in hand
    result = run_participant(*make_run(out))
    assert result.count("busy") == 0
    assert not any(claims.iterdir())
    assert_equal_outputs(out, undisturbed)


@pytest.mark.slow
def test_two_settings_at_once_do_not_mix(make_run, cohort, network, undisturbed, assert_equal_outputs, tmp_path):
    out = tmp_path / "out"
    other = SERVER.Process(target=run, args=(cohort, network, out), kwargs={"samples": 6})
    other.start()
    run(cohort, network, out)
    other.join()
    assert other.exitcode == 0
    run(cohort, network, out)  # whichever came last, ours again
    assert_equal_outputs(out, undisturbed)


@pytest.mark.slow
def test_in_processes_as_in_one(make_run, cohort, network, undisturbed, assert_equal_outputs, tmp_path):
    out = tmp_path / "out"
    result = run_participant(*make_run(out), engine=LocalProcesses(2))
    assert result.count("done") == 4
    assert_equal_outputs(out, undisturbed)


@pytest.mark.slow
def test_on_a_cluster_with_a_worker_killed_in_the_middle_of_a_scan(
    make_run, undisturbed, assert_equal_outputs, tmp_path
):
    pytest.importorskip("distributed")
    out = tmp_path / "out"
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    over, killed = threading.Event(), []
    watcher = threading.Thread(target=_kill_first_owner, args=(out / ".lesionwise" / "study" / "claims", over, killed))
    with dask_cluster(tmp_path, ["--nworkers", "2"], environment=paths) as file:
        plan, tasks = make_run(out)
        watcher.start()
        try:
            result = run_participant(plan, tasks, engine=DaskCluster(str(file)), unit_fn=run_unit)
        finally:
            over.set()
            watcher.join()
    assert len(killed) == 1
    assert killed[0] != os.getpid()
    assert result.count("done") + result.count("kept") == 4
    assert_equal_outputs(out, undisturbed)


def _kill_first_owner(claims: Path, over: threading.Event, killed: list[int]) -> None:
    """Kills the first process whose claim shows that it is in the middle of a scan."""
    while not killed and not over.is_set():
        for path in claims.glob("*.json"):
            with suppress(OSError, ValueError):
                owner = json.loads(path.read_text())["pid"]
                os.kill(owner, signal.SIGKILL)
                killed.append(owner)
                break
        time.sleep(0.002)
