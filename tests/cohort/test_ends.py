"""What ends: a claim stamped in the future, a worker whose parent is gone."""

import json
import os
import signal
import subprocess
import sys
import time

from lesionwise.cohort import claims
from lesionwise.cohort.claims import Claim


def test_a_claim_from_another_host_in_the_future_ends_when_it_does_not_move(tmp_path):
    path = tmp_path / "sub-01.json"
    path.write_text(json.dumps({"token": "theirs", "place": "another host", "pid": 1, "born": ""}))
    ahead = time.time() + 10 * 24 * 3600
    os.utime(path, (ahead, ahead))
    assert Claim.take(path, expiry_s=0.2) is None  # first seen: its owner may be alive, with a clock that is wrong
    os.utime(path, (ahead + 1, ahead + 1))
    time.sleep(0.25)
    assert Claim.take(path, expiry_s=0.2) is None  # it moved: somebody is alive
    time.sleep(0.25)
    claim = Claim.take(path, expiry_s=0.2)
    assert claim is not None
    claim.release()
    claims._watched.clear()


def test_workers_end_with_the_process_that_hired_them(tmp_path):
    """Killed with -9 in the middle of a unit, the parent takes its workers with it."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "def long(task):\n"
        "    import os; Path(task).write_text(str(os.getpid())); time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    from lesionwise.cohort.engines import LocalProcesses\n"
        "    list(LocalProcesses(1).run([sys.argv[1]], long))\n"
    )
    script, noted = tmp_path / "run.py", tmp_path / "pid"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(script), str(noted)], env=environment)
    deadline = time.time() + 120
    while not (noted.is_file() and noted.read_text()) and time.time() < deadline:
        time.sleep(0.1)
    worker = int(noted.read_text())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while _alive(worker) and time.time() < deadline:
        time.sleep(0.1)
    assert not _alive(worker)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False
