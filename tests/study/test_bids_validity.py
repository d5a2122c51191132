"""The output passes the BIDS validator where BIDS has rules."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lesionwise.io.derivative import list_scans, read_scan
from lesionwise.study.group import run_group
from lesionwise.triage.apply import triage_scan, write_triage
from lesionwise.triage.model import load_triage


@pytest.mark.slow
def test_the_validator_finds_no_error(undisturbed, tmp_path):
    validator = shutil.which(
        "bids-validator-deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    out = shutil.copytree(undisturbed, tmp_path / "out")
    model = load_triage("builtin")
    for name in list_scans(out):
        write_triage(triage_scan(read_scan(out, name), model), out, model=model)
    run_group(out)
    ran = subprocess.run(
        [validator, str(out), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "DENO_DIR": str(tmp_path / "deno")},
    )
    issues = json.loads(ran.stdout)["issues"]["issues"]
    errors = [(issue["code"], issue.get("location")) for issue in issues if issue["severity"] == "error"]
    assert errors == []
    summary = json.loads(ran.stdout)["summary"]
    assert set(summary["subjects"]) == {"01", "02", "03"}  # it did look at the files
