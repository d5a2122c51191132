"""A real Dask scheduler with workers, as processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def dask_cluster(folder: Path, *workers: Sequence[str], environment: Mapping[str, str]) -> Iterator[Path]:
    """The scheduler's file; `workers` are the options of each worker command. All processes are gone afterwards."""
    file = folder / "scheduler.json"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    worker = ["worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
        )
        for command in (scheduler, *([*worker, *options] for options in workers))
    ]
    try:
        deadline = time.time() + 60
        while not file.exists() and time.time() < deadline:
            time.sleep(0.1)
        yield file
    finally:
        for process in processes:  # with the workers that a nanny has started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
