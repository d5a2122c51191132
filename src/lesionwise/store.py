"""The cohort's table: one Parquet part per scan, readable while a study runs."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lesionwise.errors import InputError
from lesionwise.io.files import write_whole
from lesionwise.volume import ScanName

SCHEMA_VERSION = 1
FOLDER = "lesions.parquet"
KEYS = ("subject", "session", "acquisition", "run", "scan", "model", "method")


def write_part(out: Path, name: ScanName, table: pd.DataFrame, *, model: str, method: str) -> None:
    """Puts one scan's rows into the cohort's table, in place of its earlier rows for the same model and method."""
    keyed = table.copy()
    values = (name.subject, name.session, name.acquisition, name.run, name.stem, model, method)
    for position, (key, value) in enumerate(zip(KEYS, values, strict=True)):
        keyed.insert(position, key, value)
    path = out / FOLDER / f"{name.stem}.parquet"
    if path.is_file():
        before = pq.read_table(path).to_pandas()
        kept = before[(before["model"] != model) | (before["method"] != method)]
        keyed = pd.concat([kept, keyed], ignore_index=True) if len(kept) else keyed
    content = pa.Table.from_pandas(_typed(keyed), preserve_index=False)
    content = content.replace_schema_metadata({"lesionwise_schema": str(SCHEMA_VERSION)})
    with write_whole(path) as temporary:
        pq.write_table(content, temporary, compression="zstd")


def read_cohort(out: Path, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All rows of all finished scans: one per lesion, scan, model and method.

    Scans with different channels have different columns; missing ones are null. Raises InputError if there are none.
    """
    folder = Path(out) / FOLDER
    parts = sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("."))
    if not parts:
        raise InputError(f"Expected finished scans in {out}, but {folder} holds none.")
    schema = pa.unify_schemas([pq.read_schema(part).remove_metadata() for part in parts], promote_options="permissive")
    return ds.dataset(parts, schema=schema).to_table(columns=list(columns) if columns else None).to_pandas()


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Text stays text and numbers stay numbers, also where a scan has only missing values."""
    typed = table.copy()
    for column in typed.columns:
        if column in (*KEYS, "outcome"):
            typed[column] = typed[column].astype("string")
        elif column == "converged":
            typed[column] = typed[column].astype("boolean")
        elif column in ("lesion", "n_samples"):
            typed[column] = typed[column].astype("Int64")
        else:
            typed[column] = typed[column].astype("float64")
    return typed
