"""What a study will cost, before it starts: lesions, hours and gigabytes, each with where the figure comes from."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lesionwise.attribution.engine.session import Session
from lesionwise.cohort.receipts import Receipt
from lesionwise.cohort.unit import is_finished
from lesionwise.errors import InputError
from lesionwise.geometry.volume import Case
from lesionwise.instances.components import component_voxels, label_components
from lesionwise.instances.matching import read_selection
from lesionwise.io.bids import BidsScan
from lesionwise.io.cases import read_scan_case
from lesionwise.io.masks import read_own_reference
from lesionwise.io.noted import stamp_of
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.store import cohort_parts, iter_cohort
from lesionwise.study.unit import ScanTask
from lesionwise.units import Settings
from lesionwise.windows import WindowGrid

ASSUMED_LESIONS = 25
"""Median of the 30 patients described in the method's section 8; used where there is neither reference nor result."""

REFERENCES_READ = 40
"""Reference masks whose lesions are counted; the others are taken to be like them."""

SIZES_READ = 50
"""Finished scans whose files are weighed."""

SCANS_SORTED = 200
"""Scans to do among which the one of median size is looked for."""

STORED_SHARE = 0.93
"""Size of a compressed map over its raw float32 size: noise compresses badly (measured, docs/scale.md)."""


@dataclass(frozen=True)
class Estimate:
    """Figures of the scans still to do. `hours` are of one process on this machine with all its cores, or its GPU."""

    scans: int
    finished: int
    lesions_per_scan: float
    lesions_source: str
    hours: float
    hours_source: str
    gigabytes: float
    gigabytes_source: str

    def sentences(self) -> list[str]:
        """The estimate for people."""
        return [
            f"{self.scans} scan{'' if self.scans == 1 else 's'} to do, {self.finished} finished.",
            f"Lesions: about {self.lesions_per_scan:.0f} per scan, {self.lesions_per_scan * self.scans:.0f} in all "
            f"({self.lesions_source}).",
            f"Time: about {duration(self.hours)} for one process here ({self.hours_source}).",
            f"Disk: about {self.gigabytes:.2g} GB ({self.gigabytes_source}).",
        ]


def estimate(tasks: Sequence[ScanTask], model: AbstractSegmenter, settings: Settings) -> Estimate:
    """Counts the reference lesions of some scans, looks at finished scans, and times one window of this network here."""
    todo = [task for task in tasks if not (task.resume and is_finished(task.unit))]
    if not todo:
        return Estimate(0, len(tasks), 0, "nothing to do", 0, "nothing to do", 0, "nothing to do")
    finished = len(tasks) - len(todo)
    lesions, lesions_source = _lesions(tasks, settings)
    chosen = _chosen(lesions, settings)
    past = _past(todo[0].out, tasks, model.fingerprint, settings.method.name)
    if past is not None:
        hours_each, bytes_each, source = past
        total = len(todo) * chosen
        return Estimate(
            len(todo), finished, chosen, lesions_source, total * hours_each, source, total * bytes_each / 1e9, source
        )
    seconds_scan, seconds_lesion, bytes_scan, bytes_lesion = _measure(todo, model, settings)
    return Estimate(
        len(todo),
        finished,
        chosen,
        lesions_source,
        len(todo) * (seconds_scan + chosen * seconds_lesion) / 3600,
        "a scan of median size read and one window of this network timed on this machine",
        len(todo) * (bytes_scan + chosen * bytes_lesion) / 1e9,
        "size of the maps of one scan",
    )


def known_lesions(scan: BidsScan, *, connectivity: int) -> int | None:
    """Components of the scan's reference; None without one that can be read."""
    if scan.reference is None:
        return None
    try:
        mask = read_own_reference(scan.reference, rule=scan.reference_rule)
    except InputError:
        return None
    return int(label_components(mask, connectivity=connectivity).max(initial=0))


def duration(hours: float) -> str:
    """Hours as people say it."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 1.5:
        return f"{60 * hours:.0f} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"


def _lesions(tasks: Sequence[ScanTask], settings: Settings) -> tuple[float, str]:
    with_reference = [task.scan for task in tasks if task.scan.reference is not None]
    if with_reference:
        step = max(1, len(with_reference) // REFERENCES_READ)
        counted = [known_lesions(scan, connectivity=settings.connectivity) for scan in with_reference[::step]]
        counts = [count for count in counted if count is not None]
        if counts:
            return float(np.mean(counts)), f"mean of {len(counts)} reference masks"
    receipts = [receipt for task in tasks[:2000] if (receipt := Receipt.read(task.unit.receipt_path)) is not None]
    if receipts:
        return float(np.mean([_lesions_of(r) for r in receipts])), f"mean of {len(receipts)} finished scans"
    return float(ASSUMED_LESIONS), "assumed: there are neither references nor finished scans"


def _chosen(lesions: float, settings: Settings) -> float:
    """Lesions per scan that are explained under `--lesions`."""
    if settings.lesions == "all":
        return lesions * (1 + settings.controls / max(lesions, 1))
    kind, numbers = read_selection(settings.lesions)
    wanted = len(numbers) if kind == "numbers" else next(iter(numbers))  # `12` is one lesion, `largest:12` are twelve
    return min(lesions, float(wanted))


def _past(out: Path, tasks: Sequence[ScanTask], fingerprint: str, method: str) -> tuple[float, float, str] | None:
    """Hours and bytes per lesion of finished scans with this model and method."""
    try:
        cohort_parts(out)
    except InputError:
        return None
    if not any(
        ((rows["model"] == fingerprint) & (rows["method"] == method) & rows["seconds"].notna()).any()
        for rows in iter_cohort(out, columns=["model", "method", "seconds"], left_out={})
    ):
        return None
    found = [(task, receipt) for task in tasks if (receipt := Receipt.read(task.unit.receipt_path)) is not None]
    lesions = sum(_lesions_of(receipt) for _, receipt in found)
    seconds = sum(receipt.seconds for _, receipt in found)
    if not lesions or not seconds:
        return None
    sizes = [
        sum(path.stat().st_size for path in task.files.folder.glob(f"{task.files.name.stem}_*"))
        for task, _ in found[:SIZES_READ]
    ]
    each = sum(_lesions_of(receipt) for _, receipt in found[:SIZES_READ])
    source = f"measured on {len(found)} whole scans in OUT"
    return seconds / lesions / 3600, sum(sizes) / max(each, 1), source


def _measure(
    todo: Sequence[ScanTask], model: AbstractSegmenter, settings: Settings
) -> tuple[float, float, float, float]:
    """Seconds and bytes per scan, and per lesion, from a scan of median size."""
    started = time.perf_counter()
    case = _median_case(todo)
    model = model.for_case(case)
    placement = model.place(case)
    reading_s = time.perf_counter() - started
    voxel_sets = _typical_lesions(case, settings)
    opened = Session.open(model.network, model.spec, placement, voxel_sets, settings.method, settings.run_options())
    with opened as session:
        plan = session.plan()
        boxes = [site.box.shape for site in session.sites]
    i, j, k = (int(n) for n in placement.input.shape[-3:])
    grid = WindowGrid.of(model.spec, (i, j, k))
    window = torch.zeros(1, len(model.spec.channels), *model.spec.window, device=settings.device)
    with torch.no_grad():
        model.network(window)
        started = time.perf_counter()
        model.network(window)
        forward_s = time.perf_counter() - started
    copies = 2 if settings.snr else 1
    raw = float(np.mean([np.prod(shape) for shape in boxes])) * 4 * len(model.spec.channels) * copies
    voxels = float(np.prod(case.image.shape))
    return (
        reading_s + forward_s * len(grid.boxes),
        plan.seconds / len(voxel_sets),
        voxels,  # probability: smooth, about a byte per voxel
        raw * STORED_SHARE,
    )


def _median_case(todo: Sequence[ScanTask]) -> Case:
    """The scan of median size among those to do, with a reference if there are any, or the next to it that can be read."""
    marked = [task for task in todo[:SCANS_SORTED] if task.scan.reference is not None] or todo[:SCANS_SORTED]
    ordered = sorted(marked, key=lambda task: sum(stamp_of(path)[1] for path in task.scan.images.values()))
    middle = len(ordered) // 2
    problem: InputError | None = None
    for number in sorted(range(len(ordered)), key=lambda n: abs(n - middle))[:20]:
        scan = ordered[number].scan
        try:
            return read_scan_case(scan, resample=ordered[number].resample)
        except InputError as error:
            problem = problem or error
    raise InputError(f"Expected a scan that can be read among {min(len(todo), 20)}: {problem}")


def _typical_lesions(case: Case, settings: Settings) -> list[np.ndarray]:
    """The reference's lesions, or cubes of 27 voxels spread over the head."""
    if case.reference is not None and case.reference.any():
        return component_voxels(label_components(case.reference, connectivity=settings.connectivity))[:ASSUMED_LESIONS]
    inside = np.argwhere(case.head)
    cube = np.argwhere(np.ones((3, 3, 3), dtype=bool)) - 1
    limit = np.asarray(case.image.shape) - 2
    centres = inside[np.linspace(0, len(inside) - 1, ASSUMED_LESIONS).astype(int)]
    return [np.clip(centre, 1, limit) + cube for centre in centres]


def _lesions_of(receipt: Receipt) -> int:
    """Lesions explained in a finished scan."""
    count = (receipt.facts or {}).get("Lesions", 0)
    return count if isinstance(count, int) else 0
