"""Work whose result is a table per scan: kept as Parquet, read back where it is finished, put together in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lesionwise.cohort.receipts import remove_leftovers
from lesionwise.cohort.runner import CohortResult
from lesionwise.cohort.unit import ScanUnit, UnitResult
from lesionwise.errors import InputError
from lesionwise.io.files import write_whole


@dataclass(frozen=True)
class TableUnit:
    """A scan's work that ends in a table, and where that is kept."""

    unit: ScanUnit
    path: Path

    @classmethod
    def of(cls, table_fn: Callable[[], pd.DataFrame], path: Path, **unit: Any) -> "TableUnit":
        """`table_fn` (picklable) computes the table; `unit` are the other fields of its `ScanUnit`."""
        return cls(ScanUnit(run_fn=partial(keep_table, table_fn, path), **unit), path)


def keep_table(table_fn: Callable[[], pd.DataFrame], path: Path) -> UnitResult:
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


def read_kept(tables: Sequence[TableUnit], result: CohortResult) -> list[pd.DataFrame]:
    """The tables of all units that were not left out, in the units' order. `result` is what became of them."""
    there = zip(tables, result.outcomes, strict=True)
    return [read_frame(table.path) for table, outcome in there if outcome.status in ("done", "kept")]


def below_each_other(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of all; empty ones give their columns only if all are empty."""
    chosen = [table for table in tables if len(table)] or list(tables[:1])
    return pd.concat(chosen, ignore_index=True) if chosen else pd.DataFrame()
