"""Work whose result is a table per scan: kept as Parquet, read back where it is finished, put together in order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa

from lesionwise.cohort.receipts import remove_leftovers
from lesionwise.cohort.runner import CohortResult
from lesionwise.cohort.unit import ScanUnit, UnitResult
from lesionwise.errors import InputError
from lesionwise.io.files import write_whole

TableFn = Callable[[], pd.DataFrame]


def keeping(unit: ScanUnit, table_fn: TableFn, path: Path) -> ScanUnit:
    """The unit with `run_fn` made of a picklable function that returns the scan's table; it is kept at `path`."""
    return replace(unit, run_fn=partial(keep_table, table_fn, path))


def keep_table(table_fn: TableFn, path: Path) -> UnitResult:
    """Computes a table and writes it whole."""
    remove_leftovers(path.parent, path.name)
    table = table_fn()
    write_frame(path, table)
    return UnitResult([path], f"{len(table)} row{'' if len(table) == 1 else 's'}")


def write_frame(path: Path, table: pd.DataFrame) -> None:
    """A table as one Parquet file, written whole."""
    with write_whole(path) as temporary:
        table.to_parquet(temporary)


def read_frame(path: Path) -> pd.DataFrame:
    """What `write_frame` wrote. Raises InputError for a file that cannot be read."""
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f"Expected a table in {path}, but it cannot be read.") from error


def read_kept(paths: Sequence[Path], result: CohortResult) -> pd.DataFrame:
    """The tables of all units that were not left out, one below the other in the units' order.

    `paths` are where the units of `result` keep theirs. Empty tables give the columns only if all are empty.
    """
    there = [
        read_frame(path)
        for path, outcome in zip(paths, result.outcomes, strict=True)
        if outcome.status in ("done", "kept")
    ]
    filled = [table for table in there if len(table)] or there[:1]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
