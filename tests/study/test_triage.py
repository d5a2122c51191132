"""A study that judges its lesions: verdicts in every table, the same wherever units run, and maps never made again."""

import json
import os
import re
import shutil
import sys
from dataclasses import replace

import pandas as pd
import pytest
from dask_cluster import dask_cluster
from triage_models import by_volume

from lesionwise.cohort import Shard, is_finished
from lesionwise.cohort.engines import DaskCluster, LocalProcesses
from lesionwise.cohort.unit import run_unit
from lesionwise.errors import InputError
from lesionwise.io.derivative import list_scans
from lesionwise.report.group import render_group
from lesionwise.store import read_cohort
from lesionwise.study.group import run_group
from lesionwise.study.participant import run_participant
from lesionwise.triage.model import load_triage, save_model

FINDS = {"threshold": 0.68, "min_size": 3.0, "lesions": "largest:4", "samples": 2}
"""Settings under which the random network of these tests predicts some lesions."""


@pytest.fixture(scope="module")
def triage(tmp_path_factory):
    """Two models with their lines at other volumes: the first calls most lesions false, the second none."""
    folder = tmp_path_factory.mktemp("triage")
    save_model(by_volume(9.0, families=("size",)), folder / "strict.json")
    save_model(by_volume(-9.0, families=("size",)), folder / "mild.json")
    return folder / "strict.json", folder / "mild.json"


@pytest.fixture(scope="module")
def judged(make_run, triage, tmp_path_factory):
    """OUT of a serial run with the strict model."""
    out = tmp_path_factory.mktemp("judged") / "out"
    run_participant(*make_run(out, triage=triage[0], **FINDS))
    return out


@pytest.fixture
def copied(judged, tmp_path):
    """A copy of the judged OUT that a test may change; time stamps stay."""
    return shutil.copytree(judged, tmp_path / "copied")


def _maps(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*_saliency.nii.gz")}


def test_verdicts_are_in_the_cohort_s_table_as_in_the_scan_s(judged, triage):
    cohort = read_cohort(judged)
    assert (cohort["triage_verdict"] == "probably false").sum() > 3
    assert set(cohort.loc[cohort["triage_verdict"].notna(), "triage_model"]) == {load_triage(triage[0]).fingerprint}
    for name in list_scans(judged):
        table = pd.read_csv(judged / name.folder / f"{name.stem}_triage.tsv", sep="\t", na_values="n/a")
        rows = cohort[cohort["scan"] == name.stem].set_index("lesion").loc[table["lesion"]]
        assert rows["triage_verdict"].fillna("").tolist() == table["triage_verdict"].fillna("").tolist()
        assert rows["triage_p_false"].to_numpy() == pytest.approx(table["triage_p_false"].to_numpy(), nan_ok=True)
        assert (judged / name.folder / f"{name.stem}_label-L_desc-triage_mask.nii.gz").is_file()


def test_another_triage_model_judges_anew_and_makes_no_map_again(make_run, triage, copied):
    before, probability = _maps(copied), copied / "sub-01/anat/sub-01_label-L_probseg.nii.gz"
    predicted = probability.stat().st_mtime_ns
    plan, tasks = make_run(copied, triage=triage[1], **FINDS)
    assert not any(is_finished(task.unit) for task in tasks)
    assert run_participant(plan, tasks).count("done") == 4
    assert _maps(copied) == before
    assert probability.stat().st_mtime_ns == predicted
    assert set(read_cohort(copied)["triage_verdict"].dropna()) == {"keep"}
    assert run_participant(*make_run(copied, triage=triage[1], **FINDS)).count("kept") == 4


def test_triage_added_later_makes_no_map_again(make_run, triage, judged, tmp_path, assert_equal_outputs):
    out = tmp_path / "out"
    run_participant(*make_run(out, **FINDS))
    before = _maps(out)
    assert run_participant(*make_run(out, triage=triage[0], **FINDS)).count("done") == 4
    assert _maps(out) == before
    assert_equal_outputs(out, judged)


def test_a_run_without_triage_keeps_the_verdicts_until_maps_change(make_run, copied):
    assert run_participant(*make_run(copied, **FINDS)).count("kept") == 4
    assert read_cohort(copied)["triage_verdict"].notna().any()
    run_participant(*make_run(copied, **{**FINDS, "samples": 3}))
    assert list(copied.rglob("*_triage.tsv")) == []
    assert "triage_verdict" not in read_cohort(copied)


def test_in_shards_and_processes_as_in_one(make_run, triage, judged, tmp_path, assert_equal_outputs):
    out = tmp_path / "out"
    run_participant(*make_run(out, triage=triage[0], shard=Shard(1, 2), **FINDS))
    run_participant(*make_run(out, triage=triage[0], shard=Shard(2, 2), **FINDS), engine=LocalProcesses(2))
    assert_equal_outputs(out, judged)


@pytest.mark.slow
def test_on_a_cluster_as_in_one(make_run, triage, judged, tmp_path, assert_equal_outputs):
    pytest.importorskip("distributed")
    out, paths = tmp_path / "out", {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with dask_cluster(tmp_path, ["--nworkers", "2"], environment=paths) as file:
        plan, tasks = make_run(out, triage=triage[0], **FINDS)
        result = run_participant(plan, tasks, engine=DaskCluster(str(file)), unit_fn=run_unit)
    assert result.count("done") == 4
    assert_equal_outputs(out, judged)


def test_the_group_level_counts_the_verdicts(copied):
    run_group(copied)
    cohort = read_cohort(copied)
    scans = pd.read_csv(copied / "study/scans.tsv", sep="\t").set_index("scan")
    counted = (cohort["triage_verdict"] == "probably false").groupby(cohort["scan"]).sum()
    assert scans["n_probably_false"].to_dict() == counted.to_dict()
    page = render_group(copied)
    for stem, count in counted.items():
        assert re.search(rf'<th scope="row">{stem}</th>.*<td class="num">{count}</td></tr>', page)
    assert "sub-04</th><td>no T1w image</td>" in page
    for name in ("cohort", "scans", "patients"):
        columns = pd.read_csv(copied / f"study/{name}.tsv", sep="\t").columns
        assert set(columns) == set(json.loads((copied / f"study/{name}.json").read_text()))


def test_a_changed_file_under_the_same_name_is_refused(make_run, triage, tmp_path):
    _, tasks = make_run(tmp_path / "out", triage=triage[0], participants=["01"], **FINDS)
    other = tmp_path / "strict.json"
    other.write_bytes(triage[1].read_bytes())
    outcome = run_unit(replace(tasks[0], triage=replace(tasks[0].triage, ref=str(other))).unit)
    assert outcome.status == "left_out"
    assert "all workers must see the same file" in outcome.reason


def test_a_triage_model_of_other_channels_is_refused_before_any_work():
    with pytest.raises(InputError, match="fitted on the channels FLAIR, T1w"):
        load_triage("builtin").check_channels(("T2w",))
