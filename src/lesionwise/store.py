"""The cohort's table: one Parquet part per scan in `OUT/lesions.parquet`, readable while a study runs.

A part is replaced whole, so a reader sees a scan's old rows or its new ones, never half of them; temporary names begin
with a dot, which Parquet readers skip. `pandas.read_parquet("OUT/lesions.parquet")` works as well as `read_cohort`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.files import write_whole
from lesionwise.lesion_table import BASE, PER_CHANNEL, TRIAGE

SCHEMA_VERSION = 4
"""Raised whenever a column changes its meaning or its type, or one is added: 2 `instance`, 3 those of triage,
4 `reference_lesions`."""

FOLDER = "lesions.parquet"

KEYS: Mapping[str, str] = {
    "subject": "Subject label, without sub-",
    "session": "Session label, missing if the data set has none",
    "acquisition": "acq- entity of the scan, missing if it has none",
    "run": "run- entity of the scan, missing if it has none",
    "scan": "Stem of the scan's file names, sub-X[_ses-Y][_acq-A][_ce-C][_rec-R][_run-N] and so on",
    "model": "Fingerprint of the model: hash of its weights and description",
    "method": "Attribution method with its reduction, the desc- entity of the maps",
}
"""Columns before those of lesions.tsv, with their meaning. A row is one lesion, scan, model and method."""

INSTANCE = "instance"
"""Column after those of lesions.tsv: which voxels the lesion's number stands for."""

TRIAGE_MODEL = "triage_model"
"""Column after those of triage, which are there only where it was applied."""

_INSTANCE_MEANING = "Hash of the instance's voxels and outcome: rows of two methods speak of one lesion if it agrees"

Unit = dict[str, str | None]
"""`KEYS` of one scan, model and method."""

_VERSION_KEY = b"lesionwise_schema"
_UNITS_KEY = b"lesionwise_units"
_READERS = 8
_TYPES: Mapping[str, pa.DataType] = {
    **dict.fromkeys(
        (*KEYS, "outcome", INSTANCE, "triage_verdict", "triage_reasons", "reference_lesions", TRIAGE_MODEL), pa.string()
    ),
    "lesion": pa.int64(),
    "n_samples": pa.int64(),
    "converged": pa.bool_(),
}


class DamagedPartError(InputError):
    """A file among the parts that cannot be read, or is none of ours."""


@dataclass(frozen=True)
class Part:
    """One scan's rows, and the units of work that they come from (which may have found no lesion, and have no rows)."""

    table: pa.Table
    units: tuple[Unit, ...]


def write_part(
    out: Path, name: ScanName, table: pd.DataFrame, *, model: str, method: str, instances: Sequence[str] | None = None
) -> None:
    """Puts one scan's rows into the cohort's table, in place of its earlier rows for the same model and method.

    `instances` says for every row which voxels its lesion has (a hash). Rows of the same model's other methods stay if
    they speak of one of these: another lesion of the same number would be taken for this one.
    """
    if instances is not None and len(instances) != len(table):
        raise InputError(f"Expected one instance per row, found {len(instances)} for {len(table)} rows.")
    values = (name.subject, name.session, name.acquisition, name.run, name.stem, model, method)
    unit = dict(zip(KEYS, values, strict=True))
    keyed = table.copy()
    for position, (key, value) in enumerate(unit.items()):
        keyed.insert(position, key, value)
    keyed[INSTANCE] = None if instances is None else list(instances)
    content, units = _arrow(keyed), [unit]
    path = part_path(out, name)
    before = _earlier(path)
    if before is not None:
        kept = _kept(before.table, content, model, method)
        for other in before.units:
            had, has = (_rows_of(table, other) for table in (before.table, kept))
            if (other["model"], other["method"]) != (model, method) and (has or had == len(content) == 0):
                units.append(other)
        content = pa.concat_tables([kept, content], promote_options="default") if len(kept) else content
        content = content.sort_by([("model", "ascending"), ("method", "ascending"), ("lesion", "ascending")])
        units.sort(key=lambda u: (u["model"] or "", u["method"] or ""))
    _write(path, content, units)


def write_columns(out: Path, name: ScanName, values: pd.DataFrame, *, model: str, method: str) -> None:
    """Puts more columns beside one scan's rows of a model and method, by `lesion`, in place of what they held there.

    Rows of other models and methods keep theirs. Nothing happens where the cohort's table does not have the scan.
    """
    path = part_path(out, name)
    part = _earlier(path)
    if part is None:
        return
    rows = part.table.select(["model", "method", "lesion"]).to_pylist()
    table, by_lesion = part.table, values.set_index("lesion")
    for column in by_lesion.columns:
        there = column in table.column_names
        found = table[column].to_pylist() if there else [None] * len(rows)
        given = by_lesion[column].to_dict()
        for number, row in enumerate(rows):
            if (row["model"], row["method"]) == (model, method):
                found[number] = given.get(row["lesion"])
        array = pa.array(
            [None if pd.isna(one) else one for one in found], type=_TYPES.get(column, pa.float64()), from_pandas=True
        )
        place = table.column_names.index(column) if there else table.num_columns
        table = table.remove_column(place) if there else table
        table = table.add_column(place, column, array)
    _write(path, table, part.units)


def read_cohort(
    out: Path, *, columns: Sequence[str] | None = None, left_out: dict[str, str] | None = None
) -> pd.DataFrame:
    """All rows of all finished scans: one per lesion, scan, model and method.

    Scans with different channels have different columns; missing ones are null. Damaged parts are put into `left_out` by
    name with the reason; without it they raise DamagedPartError. Raises InputError if there are none.
    """
    tables = [part.table for part in _parts(cohort_parts(out), columns, left_out)]
    if not tables:
        raise InputError(f"Expected finished scans in {out}, but no part of {Path(out) / FOLDER} can be read.")
    return _concat(tables).to_pandas()


def iter_cohort(
    out: Path,
    *,
    columns: Sequence[str] | None = None,
    parts_at_once: int = 256,
    left_out: dict[str, str] | None = None,
) -> Iterator[pd.DataFrame]:
    """The cohort's rows a few hundred scans at a time, in the order of their names: memory does not grow with it.

    `left_out` as in `read_cohort`.
    """
    for batch in _batches(cohort_parts(out), parts_at_once):
        tables = [part.table for part in _parts(batch, columns, left_out)]
        if tables:
            yield _concat(tables).to_pandas()


def write_cohort(
    out: Path,
    path: Path,
    *,
    each_fn: Callable[[pd.DataFrame, list[Unit]], None] | None = None,
    parts_at_once: int = 256,
    left_out: dict[str, str] | None = None,
) -> int:
    """Copies all parts into one Parquet file at `path` and returns the number of rows; memory stays bounded.

    `each_fn(rows, units)` sees the rows of a few hundred scans at a time, all with the same columns, and the scans'
    units of work: a scan without lesions has a unit and no rows. `left_out` as in `read_cohort`.
    """
    parts, schemas = _readable(cohort_parts(out), left_out)
    if not parts:
        raise InputError(f"Expected finished scans in {out}, but no part of {Path(out) / FOLDER} can be read.")
    schema = _union(schemas)
    rows = 0
    with write_whole(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in _batches(parts, parts_at_once):
            found = _parts(batch, None, left_out)
            if not found:
                continue
            table = _concat([part.table for part in found])
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(len(table), field.type))
            table = table.select(schema.names).cast(schema)
            writer.write_table(table)
            rows += len(table)
            if each_fn is not None:
                each_fn(table.to_pandas(), [unit for part in found for unit in part.units])
    return rows


def part_path(out: Path, name: ScanName) -> Path:
    """Where a scan's part of the cohort's table lies."""
    return Path(out) / FOLDER / f"{name.stem}.parquet"


def cohort_parts(out: Path) -> list[Path]:
    """The parts that are there, sorted by name. Raises InputError if there are none."""
    folder = Path(out) / FOLDER
    parts = sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("."))
    if not parts:
        raise InputError(f"Expected finished scans in {out}, but {folder} holds none.")
    return parts


def described(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Meaning and unit of the cohort table's columns, for sidecars and the documentation."""
    found: dict[str, dict[str, str]] = {}
    for column in columns:
        measure = next((m for m in sorted(PER_CHANNEL, key=len, reverse=True) if column.startswith(f"{m}_")), None)
        if column in KEYS:
            found[column] = {"Description": KEYS[column]}
        elif column == INSTANCE:
            found[column] = {"Description": _INSTANCE_MEANING}
        elif column == TRIAGE_MODEL:
            found[column] = {"Description": "Fingerprint of the triage model that judged the row"}
        elif column in TRIAGE:
            found[column] = dict(TRIAGE[column])
        elif column in BASE:
            found[column] = dict(BASE[column])
        elif measure is not None:
            entry = dict(PER_CHANNEL[measure])
            found[column] = {
                "Units": "target unit per SD of the channel in the head (see the maps' sidecars)",
                **entry,
                "Description": f"{entry['Description']} ({column.removeprefix(measure + '_')})",
            }
    return found


def _write(path: Path, content: pa.Table, units: Sequence[Unit]) -> None:
    facts = {_VERSION_KEY: str(SCHEMA_VERSION), _UNITS_KEY: json.dumps(units)}
    with write_whole(path) as temporary:
        pq.write_table(
            content.replace_schema_metadata(facts),
            temporary,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,  # a flipped bit is found on reading, not taken for a result
        )


def _arrow(table: pd.DataFrame) -> pa.Table:
    """Text stays text and numbers stay numbers, also where a scan has only missing values or no lesions."""
    arrays = []
    for column in table.columns:
        kind = _TYPES.get(column, pa.float64())
        values = table[column].astype(object).where(table[column].notna(), None).tolist()
        arrays.append(pa.array(values, type=kind, from_pandas=True))
    return pa.Table.from_arrays(arrays, names=[str(column) for column in table.columns])


def read_part(path: Path, columns: Sequence[str] | None = None) -> Part:
    """One part in the current schema.

    Raises InputError if a newer version of the software wrote it, and DamagedPartError if it cannot be read, is not of
    the cohort's table, or is of another scan.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as part:
            facts = _facts(part.schema_arrow, path)
            there = part.schema_arrow.names
            wanted = None if columns is None else [c for c in columns if c in there]
            table = part.read(columns=wanted, use_threads=False)
        units = json.loads(facts.get(_UNITS_KEY, b"[]"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, MemoryError, RecursionError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        raise DamagedPartError(f"Expected a part of the cohort's table, but {path} is damaged or none.") from error
    is_list = isinstance(units, list) and all(isinstance(unit, dict) and unit.keys() == KEYS.keys() for unit in units)
    if not is_list or any(unit["scan"] != path.stem for unit in units):
        raise DamagedPartError(f"Expected a part of the scan {path.stem}, but {path} is of another or of none.")
    if "scan" in table.column_names and not set(table["scan"].to_pylist()) <= {path.stem}:
        raise DamagedPartError(f"Expected rows of the scan {path.stem} in {path}, found those of another.")
    if INSTANCE not in there and (columns is None or INSTANCE in columns):  # version 1
        table = table.append_column(INSTANCE, pa.nulls(len(table), pa.string()))
    return Part(table.replace_schema_metadata(None), tuple(units))


def _facts(schema: pa.Schema, path: Path) -> Mapping[bytes, bytes]:
    """A part's metadata, once it is certain that it is one. Raises InputError as `read_part`."""
    facts = schema.metadata or {}
    version = facts.get(_VERSION_KEY, b"1")
    if version.isdigit() and int(version) > SCHEMA_VERSION:
        raise InputError(
            f"Expected a cohort table of schema version {SCHEMA_VERSION} or older, found version {int(version)} in {path}: "
            "it was written by a newer lesionwise."
        )
    missing = [name for name in (*KEYS, "lesion", "outcome", "volume_mm3") if name not in schema.names]
    if missing or not version.isdigit():
        raise DamagedPartError(f"Expected a part of the cohort's table, but {path} is another Parquet file.")
    if len(set(schema.names)) < len(schema.names):
        raise DamagedPartError(
            f"Expected each column once in {path}, found {len(schema.names)} columns of fewer names."
        )
    for field in schema:
        wanted = _TYPES.get(field.name, pa.float64())
        if field.type != wanted and not pa.types.is_null(field.type):
            raise DamagedPartError(f"Expected {field.name} as {wanted} in {path}, found {field.type}.")
    return facts


def _earlier(path: Path) -> Part | None:
    """What a scan's part holds already; None where there is none, or a damaged one that is about to be replaced."""
    try:
        return read_part(path)
    except (FileNotFoundError, DamagedPartError):
        return None


def _readable(parts: Sequence[Path], left_out: dict[str, str] | None) -> tuple[list[Path], list[pa.Schema]]:
    """The parts whose head can be read, with their columns; the others as in `read_cohort`."""

    def head(path: Path) -> pa.Schema | DamagedPartError:
        try:
            schema = pq.read_schema(path)
            _facts(schema, path)
            return schema.remove_metadata()
        except DamagedPartError as error:
            return error
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            if isinstance(error, InputError):
                raise
            return DamagedPartError(f"Expected a part of the cohort's table, but {path} is damaged or none.")

    # opening thousands of small files is waiting, not computing
    with ThreadPoolExecutor(_READERS) as pool:
        heads = list(pool.map(head, parts))
    _put_aside(parts, heads, left_out)
    good = [(path, found) for path, found in zip(parts, heads, strict=True) if isinstance(found, pa.Schema)]
    return [path for path, _ in good], [schema for _, schema in good]


def _put_aside(parts: Sequence[Path], found: Sequence[object], left_out: dict[str, str] | None) -> None:
    for path, one in zip(parts, found, strict=True):
        if isinstance(one, DamagedPartError):
            if left_out is None:
                raise one
            left_out[path.stem] = str(one)


def _kept(before: pa.Table, now: pa.Table, model: str, method: str) -> pa.Table:
    """Earlier rows of other models, and those of other methods whose lesion is the same as now."""
    current = set(zip(now["lesion"].to_pylist(), now[INSTANCE].to_pylist(), strict=True))
    keep = [
        row["model"] != model or (row["method"] != method and (row["lesion"], row[INSTANCE]) in current)
        for row in before.select(["model", "method", "lesion", INSTANCE]).to_pylist()
    ]
    return before.filter(pa.array(keep, type=pa.bool_()))


def _rows_of(table: pa.Table, unit: Unit) -> int:
    rows = table.select(["model", "method"]).to_pylist()
    return sum(row["model"] == unit["model"] and row["method"] == unit["method"] for row in rows)


def _parts(parts: Sequence[Path], columns: Sequence[str] | None, left_out: dict[str, str] | None = None) -> list[Part]:
    """The parts that can be read; the others as in `read_cohort`."""

    def read(path: Path) -> Part | DamagedPartError:
        try:
            return read_part(path, columns)
        except DamagedPartError as error:
            return error

    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(read, parts))
    _put_aside(parts, found, left_out)
    return [part for part in found if isinstance(part, Part)]


def _union(schemas: Sequence[pa.Schema]) -> pa.Schema:
    distinct = list({str(schema): schema for schema in schemas}.values())
    return pa.unify_schemas(distinct, promote_options="permissive")


def _concat(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _batches(parts: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for first in range(0, len(parts), size):
        yield parts[first : first + size]
