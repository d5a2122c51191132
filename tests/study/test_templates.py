"""The job scripts of the documentation, run as written, with a stand-in for SLURM."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lesionwise.io.derivative import list_scans

TEMPLATES = Path(__file__).parents[2] / "docs" / "templates"
PROGRAMS = ("dask", "lesionwise")
NAMES = ("array.sbatch", "dask.sbatch")
SRUN = """#!/bin/bash
# runs its command SLURM_NTASKS times, as srun does, and ends with them
while [[ $1 == --* ]]; do shift; done
trap 'kill $(jobs -p)' TERM
for ((task = 0; task < SLURM_NTASKS; task++)); do "$@" & done
wait
"""


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job: one core per task, our commands and `srun` on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {"srun": SRUN, **{name: f'#!/bin/bash\nexec "{sys.executable}" -m {name} "$@"\n' for name in PROGRAMS}}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_MEM_PER_CPU": "2048",
        "SLURM_JOB_ID": "1",
        "SLURM_NTASKS": "2",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_shell_finds_nothing_wrong(name):
    assert subprocess.run(["bash", "-n", TEMPLATES / name]).returncode == 0
    if (shellcheck := shutil.which("shellcheck")) is not None:
        assert subprocess.run([shellcheck, TEMPLATES / name]).returncode == 0


@pytest.mark.slow
def test_the_tasks_of_an_array_explain_all_scans_between_them(cohort, network, slurm, tmp_path):
    out = tmp_path / "out"
    tasks = [
        subprocess.Popen(
            _command("array.sbatch", cohort, out, network),
            env={**slurm, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"},
            cwd=tmp_path,
        )
        for task in (1, 2)
    ]
    assert [task.wait() for task in tasks] == [0, 0]
    assert [name.stem for name in list_scans(out)] == ["sub-01", "sub-02"]


@pytest.mark.slow
def test_a_cluster_inside_a_job_explains_all_scans_and_ends(cohort, network, slurm, tmp_path):
    pytest.importorskip("distributed")
    out = tmp_path / "out"
    ran = subprocess.run(
        _command("dask.sbatch", cohort, out, network),
        env=slurm,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    assert "2 scans explained" in ran.stdout
    assert [name.stem for name in list_scans(out)] == ["sub-01", "sub-02"]
    assert list(tmp_path.glob("scheduler-*")) == []


def _command(name, cohort, out, network):
    options = ["--model", str(network), "--samples", "2", "--participant-label", "01", "02"]
    return ["bash", str(TEMPLATES / name), str(cohort), str(out), *options]
