"""One scan's part of an evaluation: its probability map by one model, and its metrics against the reference."""

from pathlib import Path

import numpy as np
import pandas as pd

from lesionwise.cohort import UnitResult
from lesionwise.cohort.tables import write_frame
from lesionwise.errors import InputError
from lesionwise.geometry.volume import Case
from lesionwise.instances.components import label_components
from lesionwise.io.bids import BidsScan
from lesionwise.io.cases import HEAD_FOUND, read_scan_case
from lesionwise.io.derivative import ScanFiles, write_json
from lesionwise.io.masks import read_mask
from lesionwise.io.nifti import write_image
from lesionwise.metrics import lesion_table, normalised_dice, scan_metrics
from lesionwise.models.reference import ModelRef, opened
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.units import predict_case
from lesionwise.units.keys import stored

THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(1, 20))
"""Thresholds tried on validation patients."""


def table_paths(folder: Path, scan: BidsScan) -> tuple[Path, Path]:
    """Where a scan's metrics and its lesions are kept, below one model's folder."""
    tables = folder / "tables"
    return tables / f"{scan.name.stem}_metrics.parquet", tables / f"{scan.name.stem}_lesions.parquet"


def evaluate_scan(
    model: AbstractSegmenter | ModelRef,
    scan: BidsScan,
    folder: Path,
    *,
    threshold: float | None,
    connectivity: int,
    min_voxels: int,
    ventricles: Path | None,
    device: str,
) -> UnitResult:
    """Keeps the scan's probability map, its row of metrics and its table of lesions in one model's `folder`.

    `threshold` None takes that of the network that the model asks about this scan (see `AbstractSegmenter.for_case`).

    Raises InputError if an image or the reference cannot be used.
    """
    case, reference = read_marked(scan)
    segmenter = opened(model, device)
    probability, images = probability_map(segmenter, case, folder, device=device)
    if threshold is None:
        threshold = segmenter.for_case(case).spec.threshold
    labels = [label_components(m, connectivity=connectivity) for m in (probability > threshold, reference)]
    key, affine = {"subject": scan.name.subject, "scan": scan.name.stem}, case.image.affine
    near = None if ventricles is None else read_mask(ventricles, like=(case.image.shape, affine), what="ventricle mask")
    metrics = pd.DataFrame([{**key, **scan_metrics(labels[0], labels[1], affine=affine, min_voxels=min_voxels)}])
    lesions = lesion_table(labels[0], labels[1], affine=affine, ventricles=near, min_voxels=min_voxels).assign(**key)
    paths = table_paths(folder, scan)
    write_frame(paths[0], metrics)
    write_frame(paths[1], lesions)
    said = "".join(f" Note: {note}" for note in case.notes if note != HEAD_FOUND)
    return UnitResult([*images, *paths], f"nDSC {metrics['ndsc'].iloc[0]:.2f}{said}")


def threshold_scores(model: AbstractSegmenter | ModelRef, scan: BidsScan, folder: Path, *, device: str) -> pd.DataFrame:
    """One row: the normalised Dice of a validation scan at every threshold of `THRESHOLDS`."""
    case, reference = read_marked(scan)
    probability, _ = probability_map(opened(model, device), case, folder, device=device)
    scores = {str(threshold): normalised_dice(probability > threshold, reference) for threshold in THRESHOLDS}
    return pd.DataFrame([{"subject": scan.name.subject, **scores}])


def probability_map(
    model: AbstractSegmenter, case: Case, folder: Path, *, device: str = "cpu"
) -> tuple[np.ndarray, list[Path]]:
    """Lesion probability on the scan's grid, and its files in `folder`.

    Read back if the same network made it of the same images before, wherever they lay.
    """
    files, asked = ScanFiles(folder, case.name), model.for_case(case)
    predicted = predict_case(asked, case, device=device, known=files)
    if stored(files.facts).get("PredictionKey") != predicted.key or not files.probability.is_file():
        files.facts.unlink(missing_ok=True)  # first, so that facts never speak of another probability
        write_image(
            files.probability,
            predicted.probability,
            case.image.affine,
            description="lesion probability",
            sided=case.sided,
        )
        facts = {"ModelFingerprint": asked.fingerprint, "SourceFiles": dict(case.sources)}
        write_json(files.facts, {**facts, "PredictionKey": predicted.key})
    return predicted.probability, [files.probability, files.facts]


def read_marked(scan: BidsScan) -> tuple[Case, np.ndarray]:
    """The scan and its reference. Raises InputError if it has none."""
    case = read_scan_case(scan, resample=True)
    if case.reference is None:
        raise InputError(f"Expected a reference mask for {case.name.stem}, found none.")
    return case, case.reference
