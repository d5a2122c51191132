"""The tables of an evaluation: intervals over patients, differences of models, breakdowns, as files and for reading."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lesionwise.charts.chart import Bar, Chart, Panel
from lesionwise.charts.printed import draw
from lesionwise.io.files import write_text
from lesionwise.metrics import LesionCounts, rates_by_bin
from lesionwise.stats.bootstrap import cluster_bootstrap, mean_over_patients
from lesionwise.stats.comparisons import holm, paired_difference

PER_PATIENT = ("ndsc", "dice", "volume_difference_mm3", "volume_difference_relative", "assd_mm", "hd95_mm")
"""Metrics whose mean over patients is reported."""

POOLED = ("tpr", "tpr_published", "fdr", "fnr", "f1", "ppv")
"""Lesion rates of all lesions together, under the overlap rule and (ending _iou) the IoU rule."""

SIZE_EDGES_MM3 = (0.0, 13.0, 27.0, 63.0, 355.0, np.inf)
VENTRICLE_EDGES_MM = (0.0, 3.0, 5.0, 9.0, 14.0, np.inf)
"""Bins of the breakdowns: quartiles and tail of real lesions (METHOD section 8)."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Tables of an evaluation. `metrics` has one row per model and scan; `summary` one per model and metric with a 95 %
    patient-bootstrap interval; `comparison` one per pair of models and metric; `by_size` and `by_ventricles` lesion
    rates per bin; `thresholds` what each model was used with, and where that was chosen."""

    metrics: pd.DataFrame
    summary: pd.DataFrame
    comparison: pd.DataFrame
    by_size: pd.DataFrame
    by_ventricles: pd.DataFrame
    thresholds: Mapping[str, tuple[float, str]]
    notes: tuple[str, ...] = field(default=())


def summarise(metrics: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """One row per model and metric: estimate, low, high (95 %), patients, and how it was averaged."""
    rows = []
    for name, frame in metrics.groupby("model", sort=False):
        patients = frame["subject"].to_numpy()
        for metric in PER_PATIENT:
            interval = mean_over_patients(
                frame[metric].to_numpy(dtype=float), patients, rng=np.random.default_rng([seed, 1])
            )
            rows.append((name, metric, interval.estimate, interval.low, interval.high, interval.n_patients, "mean"))
        for ending in ("", "_iou"):
            counts = _counts(frame, ending)
            for metric in POOLED:

                def pooled(picked: np.ndarray, metric: str = metric, counts: np.ndarray = counts) -> float:
                    a, b, c, d = (int(v) for v in counts[picked].sum(axis=0))
                    return float(getattr(LesionCounts(a, b, c, d), metric))

                interval = cluster_bootstrap(
                    patients, pooled, rng=np.random.default_rng([seed, 2]), n_resamples=1000, bounds=(0.0, 1.0)
                )
                values = (interval.estimate, interval.low, interval.high, interval.n_patients)
                rows.append((name, f"{metric}{ending}", *values, "pooled"))
    return pd.DataFrame(rows, columns=["model", "metric", "estimate", "low", "high", "patients", "average"])


def compare(metrics: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Every pair of models on the same scans: first - second, 95 % interval, sign-flip p, Holm over all rows."""
    rows = []
    wanted = [*PER_PATIENT, "tpr", "fdr", "f1"]
    for first, second in combinations(metrics["model"].unique(), 2):
        a, b = (metrics[metrics["model"] == name].set_index("scan") for name in (first, second))
        b = b.loc[a.index]
        for metric in wanted:
            interval, test = paired_difference(
                a[metric].to_numpy(dtype=float),
                b[metric].to_numpy(dtype=float),
                patients=a["subject"].to_numpy(),
                rng=np.random.default_rng([seed, 3]),
            )
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "metric": metric,
                    "difference": interval.estimate,
                    "low": interval.low,
                    "high": interval.high,
                    "patients": interval.n_patients,
                    "p": test.p,
                }
            )
    columns = ["first", "second", "metric", "difference", "low", "high", "patients", "p"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=float)) if len(table) else [])


def markdown(result: Evaluation) -> str:
    """The tables for reading: models as rows, metrics as columns, intervals in brackets."""
    shown = ["ndsc", "dice", "tpr", "fdr", "fnr", "f1", "ppv", "tpr_iou", "f1_iou", "assd_mm", "hd95_mm"]
    lines = [
        "# Evaluation",
        "",
        "Mean over patients (nDSC, Dice, distances in mm; of those that have a value, whose number is given where it is not all) "
        "or all lesions together (rates);",
        "",
    ]
    lines[2] += " 95 % intervals from resampled patients."
    lines += ["| model | threshold | " + " | ".join(shown) + " |", "|" + "---|" * (len(shown) + 2)]
    for name, (threshold, source) in result.thresholds.items():
        rows = result.summary[result.summary["model"] == name].set_index("metric")
        most = int(rows["patients"].max())
        cells = [_cell(rows.loc[metric], patients=most) for metric in shown]
        lines.append(f"| {name} | {threshold:g} ({source}) | " + " | ".join(cells) + " |")
    if len(result.comparison):
        lines += ["", "## Differences", "", "| pair | metric | difference | p | p (Holm) |", "|---|---|---|---|---|"]
        for _, row in result.comparison.iterrows():
            value = f"{_number(row['difference'])} [{_number(row['low'])}, {_number(row['high'])}]"
            pair = f"{row['first']} - {row['second']}"
            lines.append(f"| {pair} | {row['metric']} | {value} | {_number(row['p'])} | {_number(row['p_holm'])} |")
    for title, table in (
        ("By lesion size (mm3)", result.by_size),
        ("By distance to the ventricles (mm)", result.by_ventricles),
    ):
        if len(table):
            lines += [
                "",
                f"## {title}",
                "",
                "| model | from | to | reference | predicted | TPR | FDR |",
                "|" + "---|" * 7,
            ]
            lines += [
                f"| {r['model']} | {r['from']:g} | {r['to']:g} | {r['reference']} | {r['predicted']} | {_number(r['tpr'])} | "
                f"{_number(r['fdr'])} |"
                for _, r in table.iterrows()
            ]
    return "\n".join([*lines, *(["", *result.notes] if result.notes else []), ""])


def figure(result: Evaluation, path: Path) -> None:
    """Estimates and intervals of the main metrics, one panel each."""
    shown = [("ndsc", "nDSC"), ("dice", "Dice"), ("tpr", "TPR"), ("fdr", "FDR (lower is better)"), ("f1", "lesion F1")]
    panels = []
    for metric, title in shown:
        rows = result.summary[result.summary["metric"] == metric].set_index("model").loc[list(result.thresholds)]
        bars = [Bar(str(name), row["estimate"], row["low"], row["high"]) for name, row in rows.iterrows()]
        panels.append(Panel(title, "", "", bars, x_limits=(0, 1), horizontal=True))
    patients = int(result.summary["patients"].max())
    sample = f"mean over {patients} patients (nDSC, Dice) or all lesions (rates); lines: 95 % over patients"
    drawing = draw(Chart("evaluation", "How well the models segment", panels, sample=sample, columns=3))
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)


def tabulate(
    metrics: pd.DataFrame,
    lesions: pd.DataFrame,
    thresholds: Mapping[str, tuple[float, str]],
    notes: Sequence[str],
    *,
    seed: int,
) -> Evaluation:
    """All tables from one row per model and scan (`metrics`) and one per model and lesion (`lesions`)."""

    def bins(column: str, edges: Sequence[float]) -> pd.DataFrame:
        parts = [
            rates_by_bin(frame, column=column, edges=edges).assign(model=name)
            for name, frame in lesions.groupby("model", sort=False)
        ]
        return pd.concat(parts, ignore_index=True)[["model", "from", "to", "reference", "predicted", "tpr", "fdr"]]

    specks = metrics.groupby("model", sort=False)["lesions_reference_specks"].sum()
    notes = [
        *notes,
        *(
            f"{name}: {int(count)} reference lesions were met by predicted components below the minimum size only; they count "
            "as found, here and in `explain`."
            for name, count in specks.items()
            if count
        ),
    ]
    known = bool(lesions["ventricle_distance_mm"].notna().any())
    by_ventricles = bins("ventricle_distance_mm", VENTRICLE_EDGES_MM) if known else pd.DataFrame()
    more = () if known else ("No breakdown by distance to the ventricles: no *_label-ventricles_mask found.",)
    return Evaluation(
        metrics,
        summarise(metrics, seed=seed),
        compare(metrics, seed=seed),
        bins("volume_mm3", SIZE_EDGES_MM3),
        by_ventricles,
        thresholds,
        (*notes, *more),
    )


def write_evaluation(result: Evaluation, out: Path, fingerprints: Mapping[str, str], bids_dir: Path) -> None:
    """Writes the tables, the page, the figure and `config.json`; `fingerprints` go by the models' names."""
    for name in ("metrics", "summary", "comparison", "by_size", "by_ventricles"):
        table: pd.DataFrame = getattr(result, name)
        if len(table.columns):
            write_text(out / f"{name}.csv", table.to_csv(index=False, na_rep="n/a", lineterminator="\n"))
    write_text(out / "evaluation.md", markdown(result))
    figure(result, out / "evaluation.png")
    facts = {
        "bids_dir": str(bids_dir.resolve()),
        "models": {
            name: {
                "fingerprint": fingerprint,
                "threshold": result.thresholds[name][0],
                "threshold_source": result.thresholds[name][1],
            }
            for name, fingerprint in fingerprints.items()
        },
        "scans": sorted(set(result.metrics["scan"])),
        "torch": torch.__version__,
    }
    write_text(out / "config.json", json.dumps(facts, indent=2) + "\n")


def _counts(frame: pd.DataFrame, ending: str) -> np.ndarray:
    names = ("predicted", "predicted_true", "reference", "reference_found")
    return frame[[f"lesions_{name}{ending}" for name in names]].to_numpy(dtype=float)


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "n/a"


def _cell(row: pd.Series, *, patients: int) -> str:
    """Estimate and interval; over how many patients, where not all of them have a value."""
    if not np.isfinite(row["estimate"]):
        return "n/a"
    few = f" ({row['patients']} of {patients} patients)" if row["patients"] < patients else ""
    if not np.isfinite(row["low"]):
        return f"{row['estimate']:.2f}{few}"
    return f"{row['estimate']:.2f} [{row['low']:.2f}, {row['high']:.2f}]{few}"
