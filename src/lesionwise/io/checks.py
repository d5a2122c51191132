"""What a scan's files in OUT must hold to be read: each check names the file, what was expected and what was found."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.errors import ImageFileError, InputError
from lesionwise.geometry.box import Box

TEXT = ("outcome", "reference_lesions", "triage_verdict", "triage_reasons", "words", "signs")
"""Columns of text in the tables of a scan; all others hold numbers, or yes and no."""

LOGICAL = ("converged",)
OUTCOMES = ("TP", "US", "FP", "FN", "TN")
PLACE = ("x_mm", "y_mm", "z_mm")
NEEDED = ("lesion", "outcome", "volume_mm3", *PLACE)


def read_json(path: Path) -> dict[str, Any]:
    """A sidecar. Raises ImageFileError if it is missing, damaged, or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ImageFileError(f"Expected a JSON sidecar, but {path} is damaged or missing.") from error
    if not isinstance(content, dict):
        raise ImageFileError(f"Expected a JSON object with named entries in {path}, found something else.")
    return content


def read_table(path: Path, *, text: Sequence[str] = ()) -> pd.DataFrame:
    """A tab-separated table with `n/a` for what is missing; columns other than `text` hold numbers.

    Raises InputError that names the file, and the column that is not what it should be.
    """
    kinds = dict.fromkeys(text, str)
    try:
        table = pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False, dtype=kinds)  # type: ignore[arg-type]
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"Expected a tab-separated table, but {path} is damaged or missing.") from error
    for column in table.columns:
        values = table[column]
        if column in text or column in LOGICAL or pd.api.types.is_numeric_dtype(values):
            continue
        if values.notna().any():
            example = next(value for value in values if pd.notna(value) and not _is_number(value))
            raise InputError(f"Expected numbers in the column {column!s:.40} of {path}, found {str(example)[:40]!r}.")
    return table


def check_columns(table: pd.DataFrame, needed: Sequence[str], path: Path) -> None:
    """Raises InputError if a column is missing or given twice."""
    missing = [column for column in needed if column not in table.columns]
    if missing:
        raise InputError(f"Expected the column {missing[0]} in {path}, found none.")
    if table.columns.has_duplicates:
        raise InputError(
            f"Expected every column of {path} once, found {table.columns[table.columns.duplicated()][0]} twice."
        )


def check_lesions(table: pd.DataFrame, path: Path) -> None:
    """Raises InputError unless the table has a row per lesion with its number, outcome, size and place."""
    check_columns(table, NEEDED, path)
    numbers = table["lesion"].to_numpy(dtype=float)
    if not np.isfinite(numbers).all() or (numbers != np.round(numbers)).any() or (numbers < 1).any():
        raise InputError(f"Expected lesions numbered from 1 in {path}, found other numbers.")
    if len(np.unique(numbers)) < len(numbers):
        raise InputError(f"Expected every lesion once in {path}, found one twice.")
    strange = [value for value in table["outcome"] if value is not None and value not in OUTCOMES]
    if strange:
        raise InputError(
            f"Expected the outcomes {', '.join(OUTCOMES)} or n/a in {path}, found {str(strange[0])[:40]!r}."
        )
    sizes, places = table["volume_mm3"].to_numpy(dtype=float), table[list(PLACE)].to_numpy(dtype=float)
    placed = np.isfinite(places).all() or np.isnan(places).all()  # of a scan that lies nowhere no lesion has a place
    if not placed or not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise InputError(f"Expected the size, place and probability of every lesion in {path}, found a row without.")
    if np.isinf(table.select_dtypes("number").to_numpy(dtype=float, na_value=np.nan)).any():
        raise InputError(f"Expected finite numbers in {path}, found an infinite one.")


def check_facts(facts: Mapping[str, Any], path: Path) -> None:
    """Raises InputError unless the sidecar of the probability names channels, model, threshold and sources."""
    channels, model = facts.get("Channels"), facts.get("Model")
    if not _texts(channels) or not channels:
        raise InputError(f"Expected the names of the channels (Channels) in {path}, found something else.")
    if not isinstance(model, dict) or not all(isinstance(model.get(key), str) for key in ("Name", "Fingerprint")):
        raise InputError(f"Expected the model's name and fingerprint (Model) in {path}, found something else.")
    threshold = facts.get("Threshold", 0.5)
    if not _is_real(threshold) or not 0 < threshold < 1:
        raise InputError(f"Expected a threshold between 0 and 1 in {path}, found {str(threshold)[:40]!r}.")
    sources = facts.get("SourceFiles", {})
    if not isinstance(sources, dict) or not _texts(list(sources.values())):
        raise InputError(f"Expected the images by channel (SourceFiles) in {path}, found something else.")
    if not _texts(facts.get("Notes", [])):
        raise InputError(f"Expected sentences (Notes) in {path}, found something else.")


def check_map(sidecar: Mapping[str, Any], shape: tuple[int, ...], path: Path) -> tuple[Box, tuple[str, ...]]:
    """Where a map lies on its scan, and its channels. Raises InputError if the sidecar does not fit the map's shape."""
    start, stop, channels = (sidecar.get(key) for key in ("CropStart", "CropStop", "Channels"))
    if not _corner(start) or not _corner(stop) or not _texts(channels) or not isinstance(sidecar.get("Units"), str):
        raise InputError(f"Expected Units, Channels, CropStart and CropStop of a map in {path}, found something else.")
    size = tuple(b - a for a, b in zip(start, stop, strict=True))  # type: ignore[arg-type]
    if min(start) < 0 or (*size, len(channels)) != tuple(shape):  # type: ignore[arg-type,type-var]
        raise InputError(f"Expected a map of shape {(*size, len(channels))} as {path} says, found {tuple(shape)}.")  # type: ignore[arg-type]
    statistics = sidecar.get("Statistics", {})
    if not isinstance(statistics, dict) or not all(value is None or _is_real(value) for value in statistics.values()):
        raise InputError(f"Expected numbers by name (Statistics) in {path}, found something else.")
    return Box(tuple(start), tuple(stop)), tuple(channels)  # type: ignore[arg-type]


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _corner(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(one) is int for one in value)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float | bool) and bool(np.isfinite(value))


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
