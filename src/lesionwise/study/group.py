"""The group level: the cohort's tables, what to look at, and the report over all finished scans."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import list_scans, write_json, write_table
from lesionwise.io.files import write_whole
from lesionwise.report.narrative import number
from lesionwise.store import Unit, described, part_path, write_cohort
from lesionwise.study.left_out import left_out_list

ROBUST_Z = 5.0
"""Robust z-score beyond which a lesion or a scan is listed to be looked at."""

MOST_OUTLIERS = 200

BY = ["model", "method"]
SCAN_KEYS = ["subject", "session", "acquisition", "run", "scan", *BY]

SCAN_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "n_lesions": {"Description": "Instances, control regions (TN) not counted"},
    "n_explained": {"Description": "Instances with a map"},
    "n_TP": {"Description": "True positives"},
    "n_FP": {"Description": "False positives"},
    "n_FN": {"Description": "False negatives"},
    "n_TN": {"Description": "Control regions"},
    "n_US": {"Description": "Under-segmented (IoU rule only)"},
    "n_probably_false": {"Description": "Lesions that triage calls probably false; n/a where it was not applied"},
    "volume_ml": {"Description": "Volume of all instances but control regions", "Units": "ml"},
    "seconds": {"Description": "Computing time of the maps", "Units": "s"},
    "folder": {"Description": "Folder of the scan, relative to the derivative"},
    "report": {"Description": "Report of the scan, relative to the derivative; n/a if none was written"},
}

OUTLIER_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "scan": {"Description": "Stem of the scan's file names"},
    "lesion": {"Description": "Instance number; n/a where the whole scan stands out"},
    "model": {"Description": "Fingerprint of the model"},
    "method": {"Description": "Attribution method"},
    "column": {"Description": "Which column stands out"},
    "value": {"Description": "Its value"},
    "robust_z": {
        "Description": "0.6745 (value - median) / median absolute deviation over the cohort; of scans on a log scale"
    },
    "reason": {"Description": "The same as a sentence"},
    "folder": {"Description": "Folder of the scan, relative to the derivative"},
}

_MEASURES = ("peak", "trough", "mean_in", "mass_in", "mass_out", "share")
"""Map measures that are summarised per scan and patient (medians over lesions, control regions excluded)."""


@dataclass(frozen=True)
class GroupResult:
    """What the group step wrote; `damaged` are finished scans that it could not use, with the reason."""

    scans: int
    patients: int
    rows: int
    outliers: int
    left_out: int
    report: Path | None
    damaged: tuple[tuple[str, str], ...] = ()


def run_group(
    out: Path,
    *,
    report_fn: Callable[[Path], Any] | None = None,
    announce_fn: Callable[[str], None] | None = None,
) -> GroupResult:
    """Collects all finished scans of OUT, whatever runs they came from, into `OUT/study`.

    `report_fn(out)` writes the cohort's report. Reads `OUT/lesions.parquet` only, a few hundred scans at a time, and may
    run while the participant level is still at work. Raises InputError if no scan is finished.
    """
    say = announce_fn or (lambda sentence: None)
    out, folder = Path(out), Path(out) / "study"
    damaged: dict[str, str] = {}
    for name in list_scans(out):
        if not part_path(out, name).is_file():
            damaged[name.stem] = (
                f"Expected {part_path(out, name)}, the scan's part of the cohort's table, but it is gone."
            )
    rows, scans = collect(out, folder, left_out=damaged)
    patients = by_patient(scans)
    _write(folder / "scans.tsv", scans, _described(scans))
    _write(folder / "patients.tsv", patients, _described(patients))
    outliers = find_outliers(pd.read_parquet(folder / "cohort.parquet", columns=_looked_at(scans)), scans)
    _write(folder / "outliers.tsv", outliers, OUTLIER_COLUMNS)
    left_out = left_out_list(out).refresh(damaged=damaged)
    say(f"{rows} rows of {scans['scan'].nunique()} scans and {patients['subject'].nunique()} patients: {folder}")
    say(f"{len(outliers)} lesions or scans stand out, {len(left_out)} scans are left out.")
    page = None if report_fn is None else report_fn(out)
    return GroupResult(
        int(scans["scan"].nunique()),
        int(patients["subject"].nunique()),
        rows,
        len(outliers),
        len(left_out),
        None if page is None else Path(page),
        tuple(sorted(damaged.items())),
    )


def collect(out: Path, folder: Path, *, left_out: dict[str, str] | None = None) -> tuple[int, pd.DataFrame]:
    """Streams all parts into `cohort.parquet` and `cohort.tsv`; returns the rows' number and a row per scan and unit.

    Damaged parts are put into `left_out` by name with the reason; without it they raise InputError.
    """
    summaries: list[pd.DataFrame] = []
    with write_whole(folder / "cohort.tsv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:

        def take(block: pd.DataFrame, units: list[Unit]) -> None:
            if not summaries:
                stream.write("\t".join(block.columns) + "\n")
                write_json(folder / "cohort.json", described(list(block.columns)))
            block.to_csv(
                stream, sep="\t", index=False, header=False, na_rep="n/a", float_format="%.7g", lineterminator="\n"
            )
            summaries.append(by_scan(block, pd.DataFrame(units, columns=SCAN_KEYS)))

        rows = write_cohort(out, folder / "cohort.parquet", each_fn=take, left_out=left_out)
    scans = pd.concat(summaries, ignore_index=True)
    names = [_name(row) for row in scans.itertuples()]
    scans["folder"] = [name.folder for name in names]
    scans["report"] = [_report(out, name) for name in names]
    return rows, scans


def by_scan(rows: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
    """One row per scan, model and method: counts, volume, medians of the maps' measures over real lesions.

    `units` (columns `SCAN_KEYS`) names every scan, so that one without lesions counts as a scan with 0.
    """
    keys = [rows[key] for key in SCAN_KEYS]
    real = rows["outcome"].ne("TN").fillna(True).astype(bool)
    counts = {"n_lesions": real, "n_explained": rows["n_samples"].notna()}
    for outcome in ("TP", "FP", "FN", "TN", "US"):
        counts[f"n_{outcome}"] = rows["outcome"].eq(outcome).fillna(False).astype(bool)
    sums = (
        pd.DataFrame(counts)
        .astype(int)
        .assign(volume_ml=(rows["volume_mm3"] / 1000).where(real, 0.0), seconds=rows["seconds"].fillna(0.0))
    )
    table = sums.groupby(keys, dropna=False).sum()
    if "triage_verdict" in rows:
        table["n_probably_false"] = _judged_false(rows).groupby(keys, dropna=False).sum(min_count=1)
    unmatched = rows["outcome"].isna().groupby(keys, dropna=False).any()
    if unmatched.any():  # without a reference nothing is known to be true or false
        table[["n_TP", "n_FP", "n_FN", "n_US"]] = table[["n_TP", "n_FP", "n_FN", "n_US"]].astype(float)
        table.loc[unmatched, ["n_TP", "n_FP", "n_FN", "n_US"]] = np.nan
    measures = [c for c in rows.columns if c.startswith(tuple(f"{m}_" for m in _MEASURES)) and "_se_" not in c]
    measures = [c for c in measures if not c.startswith("mean_shell")]
    medians = rows.loc[real, measures].groupby([key[real] for key in keys], dropna=False).median()
    table = table.join(medians.add_prefix("median_"))
    every = pd.MultiIndex.from_frame(units.drop_duplicates().sort_values(SCAN_KEYS))
    missing = every.difference(table.index, sort=False)
    zeros = pd.DataFrame(0, index=missing, columns=[c for c in table.columns if not c.startswith("median_")])
    return pd.concat([table, zeros]).rename_axis(SCAN_KEYS).reset_index().sort_values(SCAN_KEYS, ignore_index=True)


def _judged_false(rows: pd.DataFrame) -> pd.Series:
    """1 where triage calls a lesion probably false, 0 where it keeps it, nan where it did not judge."""
    verdict = rows["triage_verdict"]
    return verdict.eq("probably false").fillna(False).astype(float).where(verdict.notna())


def by_patient(scans: pd.DataFrame) -> pd.DataFrame:
    """One row per patient, model and method: sums over scans, medians of the scans' medians."""
    grouped = scans.groupby(["subject", *BY], dropna=False, sort=True)
    table = pd.DataFrame({"n_scans": grouped["scan"].nunique()})
    for column in scans.columns:
        if column.startswith("n_"):
            table[column] = grouped[column].sum(min_count=1)
        elif column.startswith("median_"):
            table[column] = grouped[column].median()
    table["volume_ml"] = grouped["volume_ml"].mean()
    table["seconds"] = grouped["seconds"].sum()
    return table.reset_index()


def find_outliers(rows: pd.DataFrame, scans: pd.DataFrame) -> pd.DataFrame:
    """Lesions whose peak or trough, and scans whose lesion load, lie far from the cohort's; the farthest first.

    Lesions are compared with those of the same outcome, model and method.
    """
    found = [
        _standing_out(rows, column, "lesions") for column in rows.columns if column.startswith(("peak_", "trough_"))
    ]
    loads = scans.assign(lesion=pd.NA, outcome=pd.NA)
    found += [_standing_out(loads, column, "scans", log=True) for column in ("n_lesions", "volume_ml")]
    table = pd.concat([part for part in found if len(part)] or found[:1], ignore_index=True)
    table = table.iloc[np.argsort(-table["robust_z"].abs().to_numpy(), kind="stable")][:MOST_OUTLIERS]
    table["folder"] = table["scan"].map(dict(zip(scans["scan"], scans["folder"], strict=True)))
    return table.reindex(columns=list(OUTLIER_COLUMNS)).reset_index(drop=True)


def robust_z(values: pd.Series) -> pd.Series:
    """0.6745 (x - median) / MAD: about the usual z-score for a normal cohort; NaN where at least half agree exactly."""
    distance = values - values.median()
    spread = distance.abs().median()
    return 0.6745 * distance / spread if spread > 0 else distance * np.nan


def _standing_out(rows: pd.DataFrame, column: str, what: str, *, log: bool = False) -> pd.DataFrame:
    values = rows[column].astype(float)
    groups = [rows[key].fillna("") for key in (*BY, "outcome")]
    z = (np.log1p(values) if log else values).groupby(groups).transform(robust_z)
    chosen = rows.loc[z.abs() > ROBUST_Z, ["scan", "lesion", *BY]].assign(
        column=column, value=values[z.abs() > ROBUST_Z], robust_z=z[z.abs() > ROBUST_Z]
    )
    side = np.where(chosen["robust_z"] > 0, "above", "below")
    chosen["reason"] = [
        f"{_words(column)} ({number(value, 4)}) lies {abs(score):.1f} robust standard deviations {where} the cohort's {what}"
        for value, score, where in zip(chosen["value"], chosen["robust_z"], side, strict=True)
    ]
    return chosen


def _words(column: str) -> str:
    """A column as it is called in a sentence."""
    what, _, channel = column.partition("_")
    if what in ("peak", "trough"):
        return f"The {'highest' if what == 'peak' else 'lowest'} value of the {channel} map"
    return {"n_lesions": "The number of lesions", "volume_ml": "The lesion volume in ml"}[column]


def _looked_at(scans: pd.DataFrame) -> list[str]:
    medians = [c.removeprefix("median_") for c in scans.columns if c.startswith(("median_peak_", "median_trough_"))]
    return ["scan", "lesion", "outcome", *BY, *medians]


def _name(row: Any) -> ScanName:
    return ScanName.of_stem(str(row.scan))


def _report(out: Path, name: ScanName) -> str | None:
    for place in (f"{name.folder}/{name.stem}_report.html", f"{name.stem}_report.html"):
        if (out / place).is_file():
            return place
    return None


def _described(table: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {"n_scans": {"Description": "Scans of the patient"}, **SCAN_COLUMNS}
    found |= described(list(table.columns))
    for column in table.columns:
        if column.startswith("median_"):
            inner = described([column.removeprefix("median_")])[column.removeprefix("median_")]
            found[column] = {**inner, "Description": f"Median over lesions: {inner['Description']}"}
    return {column: found[column] for column in table.columns if column in found}


def _write(path: Path, table: pd.DataFrame, columns: Mapping[str, Any]) -> None:
    write_table(path, table)
    write_json(path.with_suffix(".json"), columns)
