"""One scan, one worker: claims are exclusive, end with their owner, and expire with its heartbeat."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lesionwise.cohort.claims import Claim


@pytest.fixture
def path(tmp_path):
    return tmp_path / "claims" / "sub-01.json"


def test_a_claim_is_exclusive_until_it_is_released(path):
    with Claim.take(path):
        assert Claim.take(path) is None
    assert not path.exists()
    second = Claim.take(path)
    assert second is not None
    second.release()


def test_of_many_that_try_at_once_one_wins(path):
    barrier, won = threading.Barrier(8), []

    def attempt():
        barrier.wait()
        claim = Claim.take(path)
        if claim is not None:
            won.append(claim)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].release()


def test_the_claim_of_a_killed_process_is_free_at_once(path):
    code = (
        "import sys, time; from pathlib import Path; from lesionwise.cohort.claims import Claim; "
        "Claim.take(Path(sys.argv[1])); print('claimed', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with owner:
        assert owner.stdout.readline() == b"claimed\n"
        assert Claim.take(path) is None
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    claim = Claim.take(path)
    assert claim is not None
    claim.release()


def test_a_process_number_used_again_is_not_the_owner(path):
    claim = Claim.take(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "token": "older", "born": "1"}))
    taken = Claim.take(path)
    assert taken is not None
    claim.release()  # must not take the other's claim away
    assert path.exists()
    taken.release()


def test_a_claim_from_another_machine_ends_with_its_heartbeat(path):
    claim = Claim.take(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "place": "another machine"}))
    assert Claim.take(path) is None
    long_ago = time.time() - 300
    os.utime(path, (long_ago, long_ago))
    taken = Claim.take(path)
    assert taken is not None
    assert json.loads(path.read_text())["token"] == taken.token
    taken.release()
    claim.release()
    assert list(path.parent.iterdir()) == []


def test_the_heartbeat_keeps_a_claim_alive(path):
    claim = Claim.take(path, heartbeat_s=0.02)
    long_ago = time.time() - 300
    os.utime(path, (long_ago, long_ago))
    deadline = time.time() + 5
    while path.stat().st_mtime < time.time() - 100 and time.time() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > time.time() - 100
    claim.release()


def test_a_claim_without_content_counts_as_alive_until_it_expires(path):
    path.parent.mkdir()
    path.touch()
    assert Claim.take(path) is None
    os.utime(path, (1, 1))
    claim = Claim.take(path)
    assert claim is not None
    claim.release()


def test_an_ended_process_that_nobody_collected_is_dead(path):
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_claim_and_leave, args=(path,))
    child.start()
    deadline = time.time() + 10
    while not (path.exists() and path.read_text().endswith("}")) and time.time() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)  # not joined: it stays a zombie
    claim = None
    while claim is None and time.time() < deadline + 10:
        time.sleep(0.1)
        claim = Claim.take(path)
    assert claim is not None
    claim.release()
    child.join()


def _claim_and_leave(path):
    Claim.take(path)
    time.sleep(60)
