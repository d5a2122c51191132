"""How well models segment a data set: the paper's table for any number of models, patients as the unit.

The threshold of a model is chosen on validation patients, or is the model's own: never on those it is judged by.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.cohort import CohortRunner, ScanUnit
from lesionwise.cohort.left_out import LeftOutList
from lesionwise.cohort.tables import TableUnit, below_each_other, read_frame, read_kept
from lesionwise.errors import InputError
from lesionwise.evaluation.scan import THRESHOLDS, evaluate_scan, table_paths, threshold_scores
from lesionwise.evaluation.tables import Evaluation, tabulate, write_evaluation
from lesionwise.io.bids import BidsScan, Filters, LeftOut, find_scans
from lesionwise.io.masks import ReferenceRule
from lesionwise.models.folds import CrossValidated
from lesionwise.models.reference import ModelRef, opened
from lesionwise.segmenter import AbstractSegmenter

WORK = "evaluate"


def evaluate(
    models: Mapping[str, AbstractSegmenter | ModelRef],
    bids_dir: Path | str,
    out: Path | str,
    *,
    participants: Sequence[str] | None = None,
    validation: Sequence[str] = (),
    filters: Filters | None = None,
    reference_from: Path | None = None,
    reference_rule: ReferenceRule | None = None,
    connectivity: int = 18,
    min_voxels: int = 6,
    seed: int = 0,
    device: str = "cpu",
    runner: CohortRunner | None = None,
) -> Evaluation | None:
    """Predicts every scan with every model and writes OUT: metrics.csv, summary.csv, comparison.csv, by_size.csv,
    by_ventricles.csv, left_out.tsv, evaluation.md, evaluation.png, config.json, and the probability maps.

    `validation` patients choose the thresholds and are left out of every table; without them each model keeps its own.
    `filters`, `reference_from` and `reference_rule` choose images and masks as in `find_scans`.
    A scan that cannot be used by one model is left out for all of them, so that every model is judged by the same scans.
    What the same model made of the same images, wherever they lie, is kept. `runner` says on what processes, and collects
    the scans left out; a share of the cohort (`runner.shard`) only computes, and gives None.

    Raises InputError without a model, for patients that are asked for twice, for a data set without reference masks, or
    if no scan can be used.
    """
    bids_dir, out, runner = Path(bids_dir), Path(out), runner or CohortRunner()
    if not models:
        raise InputError("Expected at least one model to evaluate, found none.")
    scans, chosen_on, missing = _scans(
        models,
        bids_dir,
        participants,
        validation,
        filters=filters,
        reference_from=reference_from,
        reference_rule=reference_rule,
    )
    thresholds = {
        name: _threshold(name, model, chosen_on, out, device=device, runner=runner) for name, model in models.items()
    }
    units, of_unit = [], []
    for name, model in models.items():
        for scan in runner.shard.of(scans):
            ventricles = _ventricles(bids_dir, scan)
            counting: dict[str, Any] = {
                "threshold": thresholds[name][0] if chosen_on else None,
                "connectivity": connectivity,
                "min_voxels": min_voxels,
            }
            unit = ScanUnit(
                work=WORK,
                name=scan.name,
                out=out,
                run_fn=partial(
                    evaluate_scan, model, scan, out / name, ventricles=ventricles, device=device, **counting
                ),
                inputs={**scan.files, **({} if ventricles is None else {"ventricles": ventricles})},
                depends_on=(model.fingerprint, sorted(counting.items()), scan.reference_rule),
                part=name,
            )
            units.append(unit)
            of_unit.append((name, scan))
    listed = LeftOutList(out, WORK, out / "left_out.tsv")
    result = runner.run(units, stage="evaluate", listed=listed, missing=missing)
    if not runner.shard.is_whole:
        return None
    unusable = {unit.name.stem for unit, one in zip(units, result.outcomes, strict=True) if one.status == "left_out"}
    used = [(name, scan) for name, scan in of_unit if scan.name.stem not in unusable]
    if not used:
        raise InputError(f"Expected a scan of {bids_dir} that can be used, found none: {result.left_out[0][1]}")
    metrics, lesions = (
        below_each_other([read_frame(table_paths(out / name, scan)[n]).assign(model=name) for name, scan in used])
        for n in (0, 1)
    )
    notes = [f"Left out: {stem}, {reason.rstrip('.')}." for stem, reason in result.left_out]
    found = tabulate(_model_first(metrics), lesions, thresholds, notes, seed=seed)
    write_evaluation(found, out, {name: model.fingerprint for name, model in models.items()}, bids_dir)
    return found


def _scans(
    models: Mapping[str, AbstractSegmenter | ModelRef],
    bids_dir: Path,
    participants: Sequence[str] | None,
    validation: Sequence[str],
    **chosen: Any,
) -> tuple[list[BidsScan], list[BidsScan], list[LeftOut]]:
    """Scans to judge by, scans to choose thresholds on, and those that cannot be used with the reason."""
    specs = [opened(model).spec for model in models.values()]
    channels = list(dict.fromkeys(channel for spec in specs for channel in spec.channels))
    needed = {channel for spec in specs for channel in spec.channels if channel not in spec.optional_channels}
    held = {label.removeprefix("sub-") for label in validation}
    asked = None if participants is None else {label.removeprefix("sub-") for label in participants}
    both = held & (asked or set())
    if both:
        raise InputError(
            f"Expected patients either to choose a threshold on or to judge by, found {min(both)} as both."
        )
    wanted = None if asked is None else sorted(asked | held)
    found = find_scans(
        bids_dir,
        channels=channels,
        optional_channels=[channel for channel in channels if channel not in needed],
        participants=wanted,
        **chosen,
    )
    marked = [scan for scan in found.scans if scan.reference is not None]
    unknown = held - {scan.name.subject for scan in marked}
    if unknown:
        raise InputError(f"Expected validation patients with a mask in {bids_dir}, found none for {min(unknown)}.")
    scans = [scan for scan in marked if scan.name.subject not in held]
    if not scans:
        raise InputError(f"Expected scans with {', '.join(channels)} and a lesion mask in {bids_dir}, found none.")
    missing = [*found.left_out]
    missing += [LeftOut(scan.name, "no reference mask") for scan in found.scans if scan.reference is None]
    return scans, [scan for scan in marked if scan.name.subject in held], missing


def _threshold(
    name: str,
    model: AbstractSegmenter | ModelRef,
    scans: Sequence[BidsScan],
    out: Path,
    *,
    device: str,
    runner: CohortRunner,
) -> tuple[float, str]:
    """The threshold with the best mean normalised Dice over validation patients; the model's own without any."""
    if not scans:
        own = opened(model)
        return own.spec.threshold, "each fold's own" if isinstance(own, CrossValidated) else "the model's own"
    tables = [
        TableUnit.of(
            partial(threshold_scores, model, scan, out / name, device=device),
            out / name / "tables" / f"{scan.name.stem}_thresholds.parquet",
            work="evaluate thresholds",
            name=scan.name,
            out=out,
            inputs=scan.files,
            depends_on=(model.fingerprint, THRESHOLDS, scan.reference_rule),
            part=name,
        )
        for scan in scans
    ]
    result = runner.run([table.unit for table in tables], stage="thresholds")
    scores = below_each_other(read_kept(tables, result))
    if scores.empty:
        raise InputError(
            f"Expected validation scans to choose a threshold on, but none can be used: {result.left_out[0][1]}"
        )
    mean = scores.groupby("subject").mean().mean().to_numpy()
    return THRESHOLDS[int(np.argmax(mean))], f"chosen on {scores['subject'].nunique()} validation patients"


def _ventricles(bids_dir: Path, scan: BidsScan) -> Path | None:
    """A mask of the ventricles in the data set's derivatives, None if there is none."""
    pattern = f"*/{scan.name.folder}/{scan.name.stem}_label-ventricles_mask.nii*"
    return next(iter(sorted((bids_dir / "derivatives").glob(pattern))), None)


def _model_first(metrics: pd.DataFrame) -> pd.DataFrame:
    return metrics[["model", *(column for column in metrics.columns if column != "model")]]
