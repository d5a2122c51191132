"""The cohort's table: typed, whole, readable at any time, honest about lesions that are no more."""

import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lesionwise import lesion_table, store
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName

CHANNELS = ("FLAIR", "T1w")


def _table(lesions: int, *, seed: int = 0, channels=CHANNELS) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {name: rng.normal(size=lesions) for name in lesion_table.columns(channels)},
        columns=lesion_table.columns(channels),
    )
    table["lesion"] = np.arange(1, lesions + 1)
    table["outcome"] = ["TP"] * lesions
    table["reference_lesions"] = ["1,2"] * lesions
    table["n_samples"] = pd.array([50] * lesions, dtype="Int64")
    table["converged"] = pd.array([None] * lesions, dtype="boolean")
    return table


def _ids(lesions: int, mark: str = "v") -> list[str]:
    return [f"{mark}{n}" for n in range(lesions)]


def _write(out: Path, subject: str, table: pd.DataFrame, *, model="m", method="mean", instances=None) -> None:
    store.write_part(
        out, ScanName(subject, "1"), table, model=model, method=method, instances=instances or _ids(len(table))
    )


def test_what_is_written_is_read_back(tmp_path):
    first, second = _table(3, seed=1), _table(2, seed=2)
    _write(tmp_path, "02", second)
    _write(tmp_path, "01", first)
    cohort = store.read_cohort(tmp_path)
    assert cohort["scan"].tolist() == ["sub-01_ses-1"] * 3 + ["sub-02_ses-1"] * 2
    assert list(cohort.columns) == [*store.KEYS, *lesion_table.columns(CHANNELS), store.INSTANCE]
    expected = pd.concat([first, second])["peak_T1w"].to_numpy()
    assert np.array_equal(cohort["peak_T1w"].to_numpy(), expected)
    assert cohort["converged"].isna().all()
    assert store.read_cohort(tmp_path, columns=["scan", "lesion"]).columns.tolist() == ["scan", "lesion"]


def test_a_second_writing_replaces_and_another_method_is_added(tmp_path):
    _write(tmp_path, "01", _table(3, seed=1))
    _write(tmp_path, "01", _table(3, seed=2))
    _write(tmp_path, "01", _table(3, seed=3), method="max")
    _write(tmp_path, "01", _table(3, seed=4), model="other")
    cohort = store.read_cohort(tmp_path)
    assert cohort.groupby(["model", "method"]).size().to_dict() == {
        ("m", "max"): 3,
        ("m", "mean"): 3,
        ("other", "mean"): 3,
    }
    of_mean = cohort[(cohort["model"] == "m") & (cohort["method"] == "mean")]
    assert np.array_equal(of_mean["peak_FLAIR"], _table(3, seed=2)["peak_FLAIR"])


def test_rows_of_another_method_go_when_their_lesion_is_no_more(tmp_path):
    _write(tmp_path, "01", _table(3), method="max", instances=["a", "b", "c"])
    _write(tmp_path, "01", _table(3), instances=["a", "x", "c"])
    cohort = store.read_cohort(tmp_path)
    assert cohort.loc[cohort["method"] == "max", "lesion"].tolist() == [1, 3]
    assert cohort.loc[cohort["method"] == "mean", "lesion"].tolist() == [1, 2, 3]


def test_a_scan_without_lesions_has_a_unit_and_no_rows(tmp_path):
    _write(tmp_path, "01", _table(0))
    _write(tmp_path, "02", _table(2))
    assert len(store.read_cohort(tmp_path)) == 2
    part = store.read_part(tmp_path / store.FOLDER / "sub-01_ses-1.parquet")
    assert len(part.table) == 0
    assert [(unit["scan"], unit["model"], unit["method"]) for unit in part.units] == [("sub-01_ses-1", "m", "mean")]


def test_types_do_not_depend_on_what_is_missing(tmp_path):
    empty = _table(2)
    empty["outcome"] = None
    empty["iou"] = np.nan
    empty["n_samples"] = pd.array([None, None], dtype="Int64")
    _write(tmp_path, "01", empty)
    _write(tmp_path, "02", _table(2))
    _write(tmp_path, "03", _table(0))
    schemas = {str(pq.read_schema(p).remove_metadata()) for p in store.cohort_parts(tmp_path)}
    assert len(schemas) == 1
    assert pd.read_parquet(tmp_path / store.FOLDER)["outcome"].isna().sum() == 2  # any Parquet reader will do


def test_scans_with_other_channels_are_read_together(tmp_path):
    _write(tmp_path, "01", _table(1))
    _write(tmp_path, "02", _table(1, channels=("FLAIR",)))
    cohort = store.read_cohort(tmp_path)
    assert cohort["peak_T1w"].isna().tolist() == [False, True]
    assert cohort["peak_FLAIR"].notna().all()
    rows = store.write_cohort(tmp_path, tmp_path / "one.parquet", parts_at_once=1)
    assert rows == 2
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "one.parquet")[cohort.columns], cohort)


def test_in_blocks_as_in_one(tmp_path):
    for subject in range(7):
        _write(tmp_path, f"{subject:02d}", _table(subject, seed=subject))
    blocks = list(store.iter_cohort(tmp_path, parts_at_once=3))
    assert len(blocks) == 3
    pd.testing.assert_frame_equal(pd.concat(blocks, ignore_index=True), store.read_cohort(tmp_path))
    seen = []
    store.write_cohort(
        tmp_path, tmp_path / "one.parquet", parts_at_once=3, each_fn=lambda rows, units: seen.append((rows, units))
    )
    assert sum(len(rows) for rows, _ in seen) == 21
    assert [unit["subject"] for _, units in seen for unit in units] == [f"{n:02d}" for n in range(7)]


def test_readers_never_see_half_a_part(tmp_path):
    _write(tmp_path, "01", _table(20, seed=0))
    stop, wrong = threading.Event(), []

    def read():
        while not stop.is_set():
            peaks = store.read_cohort(tmp_path)["peak_FLAIR"].to_numpy()
            if not any(np.array_equal(peaks, _table(20, seed=seed)["peak_FLAIR"]) for seed in range(3)):
                wrong.append(peaks)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(30):
        _write(tmp_path, "01", _table(20, seed=turn % 3))
    stop.set()
    reader.join()
    assert wrong == []
    assert [p.name for p in (tmp_path / store.FOLDER).iterdir()] == ["sub-01_ses-1.parquet"]


def test_a_newer_schema_is_refused_and_an_older_one_read(tmp_path):
    _write(tmp_path, "01", _table(1))
    path = tmp_path / store.FOLDER / "sub-01_ses-1.parquet"
    table = pq.read_table(path)
    old = table.drop_columns([store.INSTANCE]).replace_schema_metadata({"lesionwise_schema": "1"})
    pq.write_table(old, path)
    assert store.read_cohort(tmp_path)[store.INSTANCE].isna().all()
    pq.write_table(table.replace_schema_metadata({"lesionwise_schema": "99"}), path)
    with pytest.raises(InputError, match="newer lesionwise"):
        store.read_cohort(tmp_path)


def test_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="holds none"):
        store.read_cohort(tmp_path)


def test_every_column_is_described(tmp_path):
    _write(tmp_path, "01", _table(1))
    columns = list(store.read_cohort(tmp_path).columns)
    described = store.described(columns)
    assert list(described) == columns
    assert all(entry["Description"] for entry in described.values())
    assert described["peak_se_T1w"]["Description"].endswith(" (T1w)")
    assert isinstance(pq.read_schema(store.cohort_parts(tmp_path)[0]), pa.Schema)


@pytest.mark.parametrize("noted", [b"7", b'{"scan": "sub-01"}', b"[1]", b'"text"', b"null"])
def test_a_part_whose_notes_are_no_list_of_units_is_damaged(tmp_path, noted):
    _write(tmp_path, "01", _table(2))
    (path,) = (path for path in tmp_path.rglob("*.parquet") if path.is_file())
    table = pq.read_table(path)
    facts = {**table.schema.metadata, **{key: noted for key in table.schema.metadata if b"units" in key}}
    assert facts != table.schema.metadata
    pq.write_table(table.replace_schema_metadata(facts), path)
    with pytest.raises(store.DamagedPartError):
        store.read_part(path)


def test_a_part_with_a_column_twice_is_damaged(tmp_path):
    _write(tmp_path, "01", _table(2))
    (path,) = (path for path in tmp_path.rglob("*.parquet") if path.is_file())
    table = pq.read_table(path)
    pq.write_table(table.append_column("scan", table["scan"]).replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(store.DamagedPartError, match="each column once"):
        store.read_part(path)
