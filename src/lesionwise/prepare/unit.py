"""One scan's work for the cohort's runner: read, prepare, save, and set aside what a person must look at first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lesionwise.cohort import CohortResult, ScanUnit, UnitResult, run_cohort
from lesionwise.cohort.engines import AbstractEngine
from lesionwise.cohort.left_out import LeftOutList
from lesionwise.cohort.unit import Outcome, outcome_of_fault
from lesionwise.errors import ImageFileError
from lesionwise.geometry.volume import Volume
from lesionwise.io.bids import BidsScan, LeftOut
from lesionwise.io.masks import ReferenceRule, read_own_reference
from lesionwise.io.nifti import read_image
from lesionwise.prepare.outputs import PreparedFiles, read_quality, save, write_description, write_quality_table
from lesionwise.prepare.scan import Preparation, Prepared, on_one_grid, prepare_scan, reference_on

WORK = "prepare"
"""Kind of work under which receipts, claims and reasons are kept."""


@dataclass(frozen=True)
class PrepareTask:
    """Everything a process needs to prepare one scan into `out`."""

    scan: BidsScan
    out: Path
    choices: Preparation
    resume: bool = True

    @property
    def files(self) -> PreparedFiles:
        """Where the prepared scan lies."""
        return PreparedFiles(self.out, self.scan.name, self.choices.onto)

    @property
    def unit(self) -> ScanUnit:
        """The task as the cohort's runner takes it."""
        return ScanUnit(
            work=WORK,
            name=self.scan.name,
            out=self.out,
            run_fn=partial(prepare_files, self),
            inputs=self.scan.files,
            depends_on=(self.choices, self.scan.reference_rule),
            resume=self.resume,
        )

    def ready(self) -> BidsScan:
        """The scan as it is once it is prepared: other images, with a brain mask; its reference on their grid."""
        files = self.files
        images = {channel: files.image(channel) for channel in self.scan.images}
        notes = (*self.scan.notes, *self.notes())
        ready = replace(self.scan, images=images, brain_mask=files.brain, notes=notes)
        if files.reference.is_file():  # moved, so that it holds lesion or not
            return replace(ready, reference=files.reference, reference_rule=ReferenceRule())
        return ready

    def notes(self) -> tuple[str, ...]:
        """What was done to the scan and what is doubtful about it, for reports."""
        facts = read_quality(self.files.quality)
        done = f"Prepared by lesionwise: {' '.join(facts['Steps'])}"
        return (done, *(f"Doubt about the preparation: {sentence}" for sentence in facts["Doubts"]))

    def is_set_aside(self) -> bool:
        """True if the scan was prepared, but a person must look at it before it is used."""
        return self.files.quality.is_file() and bool(read_quality(self.files.quality)["SetAside"])

    def set_aside_reason(self) -> str:
        """Why a person must look at the scan, and where."""
        return _set_aside(read_quality(self.files.quality)["Doubts"], self.files)


def prepare_files(task: PrepareTask) -> UnitResult:
    """Prepares a scan's files into OUT; one that a person must look at first is written as well."""
    files, scan = task.files, task.scan
    files.quality.unlink(missing_ok=True)
    channels = {name: read_channel(path, name) for name, path in scan.images.items()}
    prepared = prepare_scan(channels, task.choices)
    moved = None
    if scan.reference is not None:
        affine = read_image(scan.reference)[1]
        drawn = read_own_reference(scan.reference, rule=scan.reference_rule)
        if not on_one_grid(Volume(drawn[None].astype(np.float32), affine, ("reference",)), channels[prepared.fixed]):
            moved = reference_on(drawn, affine, channels, prepared)
    files.reference.unlink(missing_ok=True)
    written = save(prepared, files, sources=scan.images, reference=moved)
    if prepared.quality.set_aside:
        note = _set_aside([doubt.sentence for doubt in prepared.quality.doubts], files)
    else:
        note = _note(prepared)
    return UnitResult(written, note, {"LeftAlone": prepared.left_alone})


def read_channel(path: Path, name: str) -> Volume:
    """One image as a volume. Raises ImageFileError as `lesionwise.io.nifti.read_image`, and for one without contrast."""
    data, affine = read_image(path)
    if float(data.max()) == float(data.min()):
        raise ImageFileError(f"Expected a scan with contrast, found the one value {data.max():g} in {path}.")
    return Volume(data[None], affine, (name,))


def prepare_cohort(
    tasks: Sequence[PrepareTask],
    out: Path,
    *,
    version: str = "",
    raw: Path | None = None,
    missing: Sequence[LeftOut] = (),
    engine: AbstractEngine | None = None,
    progress_fn: Callable[[str, int, int], None] | None = None,
    announce_fn: Callable[[str], None] | None = None,
    **options: Any,
) -> CohortResult:
    """Prepares all scans that are not prepared yet, and writes the data set's files and the table of quality.

    Scans set aside or unusable are left out, and listed in `OUT/left_out.tsv`; those set aside are kept like others, not
    computed again. `options` are those of `lesionwise.cohort.run_cohort`.
    """
    write_description(out, version=version, raw=raw)
    listed = LeftOutList(out, WORK, out / "left_out.tsv")
    result = run_cohort(
        [task.unit for task in tasks],
        engine=engine,
        left_out=listed,
        missing=missing,
        stage=WORK,
        progress_fn=progress_fn,
        announce_fn=announce_fn,
        **options,
    )
    outcomes = tuple(_looked_at(task, outcome) for task, outcome in zip(tasks, result.outcomes, strict=True))
    listed.refresh()
    write_quality_table(out)
    aside = {outcome.stem: outcome.reason for outcome in outcomes if outcome.status == "left_out"}
    return replace(result, outcomes=outcomes, left_out=tuple(sorted({**dict(result.left_out), **aside}.items())))


def _looked_at(task: PrepareTask, outcome: Outcome) -> Outcome:
    """The outcome of a scan that is finished but set aside is that it is left out."""
    if outcome.status == "left_out" or not task.is_set_aside():
        return outcome
    return outcome_of_fault(task.unit, task.set_aside_reason())


def _set_aside(doubts: Sequence[str], files: PreparedFiles) -> str:
    return f"set aside: {doubts[0]} Look at {files.figure}."


def _note(prepared: Prepared) -> str:
    if prepared.left_alone:
        return "was ready"
    m = prepared.quality.measures
    moved = f", moved by up to {m['moved_mm']:.1f} mm" if "moved_mm" in m else ""
    doubts = len(prepared.quality.doubts)
    more = f", {doubts} doubt{'s' if doubts > 1 else ''}: {prepared.quality.doubts[0].sentence}" if doubts else ""
    return f"brain {m['brain_ml']:.0f} ml{moved}{more}"
