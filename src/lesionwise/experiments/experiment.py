"""What every experiment is: rows from one scan, then a finding from the rows of all scans."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.asking.scan import Scan
from lesionwise.charts.chart import Chart
from lesionwise.stats import Interval, mean_over_patients

KEYS = ("subject", "session", "scan", "model", "lesion", "outcome")
"""Columns that every table of rows begins with."""

OUTCOMES = ("TP", "US", "FP", "FN", "TN")

SHARES = ("detected", "pointing", "before", "probability_mean")
"""Columns whose values lie between 0 and 1."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What an experiment found: one paragraph in plain words, figures, and the tables behind both."""

    text: str
    charts: tuple[Chart, ...] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Experiment:
    """One experiment as the command line knows it.

    `rows_fn(scan, **options)` is a pure function of (model, case, instances) bound in a `Scan`; `group_fn(rows, rng)`
    goes from the rows of all scans to a `Finding`. `defaults` are the options of `rows_fn` by name. `needs_maps` says
    whether saliency maps must have been computed first. `check_fn` raises InputError for options with which no scan
    could be looked at.
    """

    name: str
    question: str
    rows_fn: Callable[..., pd.DataFrame]
    group_fn: Callable[[pd.DataFrame, np.random.Generator], Finding]
    needs_maps: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    check_fn: Callable[[Mapping[str, Any]], object] | None = None


def keyed(scan: Scan, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table that begins with subject, session, scan and model; `lesion` and `outcome` follow if present."""
    name = scan.case.name
    table = pd.DataFrame(rows)
    facts = {"subject": name.subject, "session": name.session, "scan": name.stem, "model": scan.model.spec.name}
    for position, (key, value) in enumerate(facts.items()):
        table.insert(position, key, value)
    return table


def outcome_of(frame: pd.DataFrame) -> pd.Series:
    """Outcome per row, "predicted" where there was no reference."""
    return frame["outcome"].fillna("predicted").astype(str)


def present(frame: pd.DataFrame) -> list[str]:
    """Outcomes that occur, in their usual order."""
    found = set(outcome_of(frame))
    return [name for name in (*OUTCOMES, "predicted") if name in found]


def lesions_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """Scan and label of the lesion that each row is about, for figures whose points open their lesion."""
    return [(str(scan), int(lesion)) for scan, lesion in zip(frame["scan"], frame["lesion"], strict=True)]


def mean_of(frame: pd.DataFrame, column: str, rng: np.random.Generator) -> Interval:
    """Mean of a column over patients, with its interval; what is a share stays between 0 and 1."""
    values, patients = frame[column].to_numpy(dtype=float), frame["subject"].to_numpy(dtype=str)
    return mean_over_patients(values, patients, rng=rng, bounds=(0.0, 1.0) if column in SHARES else None)


def patients_note(frame: pd.DataFrame) -> str:
    """How many patients, scans and lesions the rows hold, as the beginning of a sentence about them."""
    patients, scans = frame["subject"].nunique(), frame["scan"].nunique()
    counts = f"{patients} patient{'s' if patients != 1 else ''}"
    if scans != patients:
        counts += f" ({scans} scans; repeated scans are not patients)"
    if "lesion" in frame:
        lesions = len(frame[["scan", "lesion"]].drop_duplicates())
        counts += f", {lesions} lesion{'s' if lesions != 1 else ''}"
    return counts
