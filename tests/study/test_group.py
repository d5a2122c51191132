"""What the group level says about a cohort, counted by hand."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lesionwise import lesion_table
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.store import write_part
from lesionwise.study.group import OUTLIER_COLUMNS, robust_z, run_group

CHANNELS = ("FLAIR", "T1w")


def _write(out, name, outcomes, *, peaks=None, volume=10.0, method="mean"):
    n = len(outcomes)
    rng = np.random.default_rng(abs(hash(name.stem)) % 2**32)
    columns = lesion_table.columns(CHANNELS)
    table = pd.DataFrame({c: rng.normal(size=n) for c in columns}, columns=columns)
    table["lesion"] = range(1, n + 1)
    table["outcome"] = outcomes
    table["n_samples"] = pd.array([50] * n, dtype="Int64")
    table["converged"] = pd.array([None] * n, dtype="boolean")
    table["reference_lesions"] = "1"
    table["volume_mm3"] = volume
    table["seconds"] = 2.0
    if peaks is not None:
        table["peak_FLAIR"] = peaks
    write_part(out, name, table, model="m", method=method, instances=[str(k) for k in range(n)])


def _read(path):
    return pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False, dtype={"subject": str, "session": str})


@pytest.fixture
def out(tmp_path):
    _write(tmp_path, ScanName("01", "a"), ["TP", "TP", "FP", "TN"], peaks=[1.0, 3.0, 5.0, 100.0])
    _write(tmp_path, ScanName("01", "b"), ["TP", "FN"], peaks=[2.0, 4.0], volume=500.0)
    _write(tmp_path, ScanName("02", "a"), [])
    _write(tmp_path, ScanName("03", "a"), [None, None], peaks=[1.0, 2.0])
    return tmp_path


def test_scans_and_patients_are_counted(out):
    result = run_group(out)
    assert (result.scans, result.patients, result.rows) == (4, 3, 8)
    scans = _read(out / "study/scans.tsv").set_index("scan")
    first = scans.loc["sub-01_ses-a"]
    assert (first["n_lesions"], first["n_TP"], first["n_FP"], first["n_FN"], first["n_TN"]) == (3, 2, 1, 0, 1)
    assert first["volume_ml"] == pytest.approx(0.03)
    assert first["median_peak_FLAIR"] == 3.0  # of 1, 3, 5: the control region does not count
    assert first["folder"] == "sub-01/ses-a/anat"
    assert scans.loc["sub-02_ses-a", "n_lesions"] == 0  # a scan without lesions is a scan
    assert np.isnan(scans.loc["sub-03_ses-a", "n_TP"])  # without a reference nothing is known to be true
    assert scans.loc["sub-03_ses-a", "n_lesions"] == 2
    patients = _read(out / "study/patients.tsv").set_index("subject")
    assert (patients.loc["01", "n_scans"], patients.loc["01", "n_lesions"], patients.loc["01", "n_TP"]) == (2, 5, 3)
    assert patients.loc["01", "seconds"] == 12.0
    assert patients.loc["01", "volume_ml"] == pytest.approx((0.03 + 1.0) / 2)


def test_cohort_tables_hold_every_row_and_every_column_is_described(out):
    run_group(out)
    rows = _read(out / "study/cohort.tsv")
    assert len(rows) == len(pd.read_parquet(out / "study/cohort.parquet")) == 8
    for name in ("cohort", "scans", "patients", "outliers"):
        columns = _read(out / f"study/{name}.tsv").columns
        described = json.loads((out / f"study/{name}.json").read_text())
        undescribed = set(columns) - set(described)
        assert undescribed == set()


def test_what_stands_out_is_listed_farthest_first(out):
    for subject in range(10, 20):
        peaks = [*np.linspace(1.0, 2.0, subject), 9.0 if subject == 10 else 1.5]
        _write(out, ScanName(str(subject), "a"), ["TP"] * (subject + 1), peaks=peaks)
    _write(out, ScanName("77", "a"), ["FP"] * 4000)
    run_group(out)
    table = _read(out / "study/outliers.tsv")
    assert list(table.columns) == list(OUTLIER_COLUMNS)
    lesion = table[(table["column"] == "peak_FLAIR") & (table["scan"] == "sub-10_ses-a")]
    assert lesion["lesion"].tolist() == [11]
    assert "above the cohort's lesions" in lesion["reason"].item()
    scan = table[table["column"] == "n_lesions"]
    assert "sub-77_ses-a" in scan["scan"].tolist()
    assert scan["lesion"].isna().all()
    z = table["robust_z"].abs().to_numpy()
    assert (np.diff(z) <= 0).all()


def test_robust_z_of_a_normal_sample_is_its_z():
    values = pd.Series(np.random.default_rng(0).normal(3.0, 2.0, size=20_000))
    assert robust_z(values).std() == pytest.approx(1.0, abs=0.02)
    assert robust_z(pd.Series([1.0, 1.0, 1.0, 5.0])).isna().all()


def test_the_report_is_written_last_and_named(out):
    seen = []

    def report(folder):
        seen.append((folder / "study/outliers.tsv").is_file())
        return folder / "report.html"

    assert run_group(out, report_fn=report).report == out / "report.html"
    assert seen == [True]


def test_without_finished_scans_there_is_no_group(tmp_path):
    with pytest.raises(InputError, match="holds none"):
        run_group(tmp_path)


def test_the_group_step_needs_no_torch():
    code = "import sys, lesionwise.study.group; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
