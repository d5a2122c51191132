"""How well models segment a data set: the paper's table for any number of models, patients as the unit.

The threshold of a model is chosen on validation patients, or is the model's own: never on those it is judged by.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lesionwise.charts.chart import Bar, Chart, Panel
from lesionwise.charts.printed import draw
from lesionwise.errors import InputError
from lesionwise.geometry.volume import Case
from lesionwise.instances.components import label_components
from lesionwise.io.bids import BidsScan, find_scans
from lesionwise.io.cases import read_case
from lesionwise.io.files import write_text
from lesionwise.io.nifti import read_image, read_mask, write_image
from lesionwise.metrics import LesionCounts, lesion_table, normalised_dice, rates_by_bin, scan_metrics
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.stats.bootstrap import cluster_bootstrap, mean_over_patients
from lesionwise.stats.comparisons import holm, paired_difference
from lesionwise.windows import WindowGrid, predict, probability_on_scan

ProgressFn = Callable[[str, int, int], None]

PER_PATIENT = ("ndsc", "dice", "volume_difference_mm3", "volume_difference_relative", "assd_mm", "hd95_mm")
"""Metrics whose mean over patients is reported."""

POOLED = ("tpr", "tpr_published", "fdr", "fnr", "f1", "ppv")
"""Lesion rates of all lesions together, under the overlap rule and (ending _iou) the IoU rule."""

SIZE_EDGES_MM3 = (0.0, 13.0, 27.0, 63.0, 355.0, np.inf)
VENTRICLE_EDGES_MM = (0.0, 3.0, 5.0, 9.0, 14.0, np.inf)
"""Bins of the breakdowns: quartiles and tail of real lesions (METHOD section 8)."""

THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(1, 20))


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


def evaluate(
    models: Mapping[str, AbstractSegmenter],
    bids_dir: Path | str,
    out: Path | str,
    *,
    participants: Sequence[str] | None = None,
    validation: Sequence[str] = (),
    connectivity: int = 18,
    min_voxels: int = 6,
    seed: int = 0,
    progress_fn: ProgressFn | None = None,
) -> Evaluation:
    """Predicts every scan with every model and writes OUT: metrics.csv, summary.csv, comparison.csv, by_size.csv,
    by_ventricles.csv, evaluation.md, evaluation.png, config.json, and the probability maps.

    `validation` patients choose the thresholds and are left out of every table; without them each model keeps its own.
    Interrupted, the same call goes on: a probability map of the same model is read back.
    Raises InputError without a model, for patients that are asked for twice, or a data set without reference masks.
    """
    bids_dir, out = Path(bids_dir), Path(out)
    if not models:
        raise InputError("Expected at least one model to evaluate, found none.")
    scans, chosen_on, left_out = _scans(models, bids_dir, participants, validation)
    total, done = len(models) * (len(scans) + len(chosen_on)), 0
    thresholds: dict[str, tuple[float, str]] = {}
    rows: list[dict[str, object]] = []
    lesions: list[pd.DataFrame] = []

    def count() -> None:
        nonlocal done
        done += 1
        if progress_fn is not None:
            progress_fn("evaluate", done, total)

    for name, model in models.items():
        thresholds[name] = _threshold(name, model, chosen_on, out, count)
        for scan in scans:
            case = _read(scan)
            mask = probability_map(model, case, out / name) > thresholds[name][0]
            labels = [label_components(m, connectivity=connectivity) for m in (mask, _reference(case))]
            key = {"model": name, "subject": scan.name.subject, "scan": scan.name.stem}
            affine = case.image.affine
            rows.append({**key, **scan_metrics(labels[0], labels[1], affine=affine, min_voxels=min_voxels)})
            ventricles = _ventricles(bids_dir, scan, case)
            table = lesion_table(
                labels[0], labels[1], affine=affine, ventricles=ventricles, min_voxels=min_voxels
            ).assign(**key)
            lesions.append(table)
            count()
    result = _tabulate(pd.DataFrame(rows), pd.concat(lesions, ignore_index=True), thresholds, left_out, seed=seed)
    _write(result, out, models, bids_dir)
    return result


def probability_map(model: AbstractSegmenter, case: Case, folder: Path) -> np.ndarray:
    """Lesion probability on the scan's grid, kept in `folder`; read back if the same model made it before."""
    path = folder / case.name.folder / f"{case.name.stem}_label-L_probseg.nii.gz"
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    facts = {"ModelFingerprint": model.fingerprint, "SourceFiles": dict(case.sources)}
    if path.is_file() and sidecar.is_file() and json.loads(sidecar.read_text(encoding="utf-8")) == facts:
        return read_image(path)[0]
    placement = model.place(case)
    weight = next(model.network.parameters(), None)
    x = placement.input if weight is None else placement.input.to(weight.device)
    grid = WindowGrid.of(model.spec, (x.shape[2], x.shape[3], x.shape[4]))
    logits = predict(model.network, x, grid).cpu()
    p = probability_on_scan(logits, placement, model.spec).numpy().astype(np.float32)
    write_image(path, p, case.image.affine)
    write_text(sidecar, json.dumps(facts, indent=2) + "\n")
    return p


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
        "Mean over patients (nDSC, Dice, distances in mm) or all lesions together (rates);",
        "",
    ]
    lines[2] += " 95 % intervals from resampled patients."
    lines += ["| model | threshold | " + " | ".join(shown) + " |", "|" + "---|" * (len(shown) + 2)]
    for name, (threshold, source) in result.thresholds.items():
        rows = result.summary[result.summary["model"] == name].set_index("metric")
        cells = [_cell(rows.loc[metric]) for metric in shown]
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


def _scans(
    models: Mapping[str, AbstractSegmenter],
    bids_dir: Path,
    participants: Sequence[str] | None,
    validation: Sequence[str],
) -> tuple[list[BidsScan], list[BidsScan], list[str]]:
    """Scans to judge by, scans to choose thresholds on, and sentences about scans left out."""
    channels = list(dict.fromkeys(channel for model in models.values() for channel in model.spec.channels))
    held = {label.removeprefix("sub-") for label in validation}
    asked = None if participants is None else {label.removeprefix("sub-") for label in participants}
    both = held & (asked or set())
    if both:
        raise InputError(
            f"Expected patients either to choose a threshold on or to judge by, found {min(both)} as both."
        )
    wanted = None if asked is None else sorted(asked | held)
    found = find_scans(bids_dir, channels=channels, participants=wanted)
    marked = [scan for scan in found.scans if scan.reference is not None]
    unknown = held - {scan.name.subject for scan in marked}
    if unknown:
        raise InputError(f"Expected validation patients with a mask in {bids_dir}, found none for {min(unknown)}.")
    scans = [scan for scan in marked if scan.name.subject not in held]
    if not scans:
        raise InputError(f"Expected scans with {', '.join(channels)} and a lesion mask in {bids_dir}, found none.")
    notes = [f"Left out: {left.name.stem}, {left.reason}." for left in found.left_out]
    notes += [f"Left out: {scan.name.stem}, no reference mask." for scan in found.scans if scan.reference is None]
    return scans, [scan for scan in marked if scan.name.subject in held], notes


def _threshold(
    name: str, model: AbstractSegmenter, scans: Sequence[BidsScan], out: Path, count: Callable[[], None]
) -> tuple[float, str]:
    """The threshold with the best mean normalised Dice over validation patients; the model's own without any."""
    if not scans:
        return model.spec.threshold, "the model's own"
    scores = []
    for scan in scans:
        case = _read(scan)
        p = probability_map(model, case, out / name)
        scores.append([normalised_dice(p > threshold, _reference(case)) for threshold in THRESHOLDS])
        count()
    patients = pd.Series([scan.name.subject for scan in scans])
    mean = pd.DataFrame(scores).groupby(patients).mean().mean().to_numpy()
    return THRESHOLDS[int(np.argmax(mean))], f"chosen on {patients.nunique()} validation patients"


def _tabulate(
    metrics: pd.DataFrame,
    lesions: pd.DataFrame,
    thresholds: Mapping[str, tuple[float, str]],
    notes: Sequence[str],
    *,
    seed: int,
) -> Evaluation:
    def bins(column: str, edges: Sequence[float]) -> pd.DataFrame:
        parts = [
            rates_by_bin(frame, column=column, edges=edges).assign(model=name)
            for name, frame in lesions.groupby("model", sort=False)
        ]
        return pd.concat(parts, ignore_index=True)[["model", "from", "to", "reference", "predicted", "tpr", "fdr"]]

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


def _write(result: Evaluation, out: Path, models: Mapping[str, AbstractSegmenter], bids_dir: Path) -> None:
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
                "fingerprint": model.fingerprint,
                "threshold": result.thresholds[name][0],
                "threshold_source": result.thresholds[name][1],
            }
            for name, model in models.items()
        },
        "scans": sorted(set(result.metrics["scan"])),
        "torch": torch.__version__,
    }
    write_text(out / "config.json", json.dumps(facts, indent=2) + "\n")


def _counts(frame: pd.DataFrame, ending: str) -> np.ndarray:
    names = ("predicted", "predicted_true", "reference", "reference_found")
    return frame[[f"lesions_{name}{ending}" for name in names]].to_numpy(dtype=float)


def _read(scan: BidsScan) -> Case:
    return read_case(dict(scan.images), reference=scan.reference, name=scan.name, resample=True)


def _reference(case: Case) -> np.ndarray:
    if case.reference is None:
        raise InputError(f"Expected a reference mask for {case.name.stem}, found none.")
    return case.reference


def _ventricles(bids_dir: Path, scan: BidsScan, case: Case) -> np.ndarray | None:
    """A mask of the ventricles from the data set's derivatives, None if there is none."""
    pattern = f"*/{scan.name.folder}/{scan.name.stem}_label-ventricles_mask.nii*"
    found = sorted((bids_dir / "derivatives").glob(pattern))
    if not found:
        return None
    return read_mask(found[0], like=(case.image.shape, case.image.affine), what="ventricle mask")


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "n/a"


def _cell(row: pd.Series) -> str:
    if not np.isfinite(row["estimate"]):
        return "n/a"
    if not np.isfinite(row["low"]):
        return f"{row['estimate']:.2f}"
    return f"{row['estimate']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
