"""The study's unit of work: one scan explained into OUT, and its lesions judged if a triage model is named."""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from lesionwise.cohort import within
from lesionwise.cohort.engines import cluster_memory_bytes
from lesionwise.cohort.receipts import remove_leftovers
from lesionwise.cohort.unit import ScanUnit, UnitResult
from lesionwise.errors import InputError
from lesionwise.io.bids import BidsScan
from lesionwise.io.cases import HEAD_FOUND, read_scan_case
from lesionwise.io.derivative import ScanFiles, read_why
from lesionwise.memory import MEMORY_SHARE
from lesionwise.models.reference import ModelRef
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.store import part_path
from lesionwise.study.left_out import WORK
from lesionwise.triage.apply import triage_scan, write_triage
from lesionwise.triage.model import TriageModel, load_triage
from lesionwise.triage.scan import TriageScan
from lesionwise.units import Explained, Settings, explain_case
from lesionwise.units.keys import stored
from lesionwise.units.record import is_recorded, written
from lesionwise.why.finished import explain_why


@dataclass(frozen=True)
class TriageRef:
    """A triage model by name or path, with the fingerprint that it must have wherever it is read."""

    ref: str
    fingerprint: str


@dataclass(frozen=True)
class ScanTask:
    """Everything a process needs to explain one scan, and to judge its lesions if `triage` names a model.

    With `why` the network is also asked what would have changed its mind. A scan that is `refused`, for the reason given,
    is left out.
    """

    scan: BidsScan
    out: Path
    model: ModelRef
    settings: Settings
    version: str = ""
    resume: bool = True
    resample: bool = False
    memory_bytes: int | None = None
    triage: TriageRef | None = None
    why: bool = False
    refused: str = ""

    @property
    def files(self) -> ScanFiles:
        """Where the scan's outputs lie."""
        return ScanFiles(self.out, self.scan.name)

    @property
    def unit(self) -> ScanUnit:
        """The task as the cohort's runner takes it.

        The triage model is no part of its key: maps do not depend on it (see `is_sound`).
        """
        return ScanUnit(
            work=WORK,
            name=self.scan.name,
            out=self.out,
            run_fn=partial(explain_scan, self),
            inputs=self.scan.files,
            depends_on=(
                self.model.fingerprint,
                self.settings.key,
                self.resample,
                self.scan.reference_rule,
                *((self.refused,) if self.refused else ()),
            ),
            resume=self.resume,
            sound_fn=partial(is_sound, self),
        )


def is_sound(task: ScanTask) -> bool:
    """True if the cohort's table has the scan, and its lesions were judged by the task's triage model, if it names one.

    Told apart from the files that only the study writes: verdicts of `triage apply` change these as well.
    """
    files = task.files
    if not is_recorded(files, model=task.model.fingerprint, method=task.settings.method.name):
        return False
    if task.why and read_why(files) is None:
        return False
    if task.triage is None:
        return True
    judged = stored(files.triage_table.with_suffix(".json")).get("Model")
    return isinstance(judged, dict) and judged.get("Fingerprint") == task.triage.fingerprint


def explain_scan(task: ScanTask) -> UnitResult:
    """Explains the scan; what is there already under the same keys is read back, but not without `resume`.

    Raises InputError with the reason for one that is refused.
    """
    if task.refused:
        raise InputError(task.refused)
    files, scan = task.files, task.scan
    tidy(files)
    if not task.resume:
        _forget(files, task.settings)
    model = task.model.load(task.settings.device)
    triage = None if task.triage is None else _triage(task.triage)
    case = read_scan_case(scan, resample=task.resample)
    memory_bytes = task.memory_bytes
    if memory_bytes is None and task.settings.device == "cpu" and (limit := cluster_memory_bytes()) is not None:
        memory_bytes = int(MEMORY_SHARE * limit)
    explained = explain_case(
        model,
        case,
        task.settings,
        out=task.out,
        progress_fn=partial(within.tell, scan.name.stem),
        version=task.version,
        memory_bytes=memory_bytes,
    )
    note = _found(explained)
    why = None
    if task.why:
        why = explain_why(explained, model, task.out, progress_fn=partial(within.tell, scan.name.stem))
    if triage is not None:
        note += f", {_judge(TriageScan.of(explained, why=why), triage, model, task.out)} probably false"
    note += "".join(f" Note: {one}" for one in explained.notes if one != HEAD_FOUND)
    return UnitResult(written(files, task.settings.method.name), note, {"Lesions": len(explained.maps)})


def tidy(files: ScanFiles) -> None:
    """Removes temporary files of this scan that a killed process left behind."""
    stem = files.name.stem
    kinds = ("label-", "seg-", "lesions.", "triage.", "lookhere.", "why.")  # never those of `sub-1_acq-a` for `sub-1`
    remove_leftovers(files.folder, *(f"{stem}_{kind}" for kind in kinds))
    part = part_path(files.out, files.name)
    remove_leftovers(part.parent, part.name)


def _judge(explained: TriageScan, triage: TriageModel, model: AbstractSegmenter, out: Path) -> int:
    """Writes the verdicts; returns how many lesions are probably false."""
    triaged = triage_scan(explained, triage, segmenter=model)
    write_triage(triaged, out, model=triage)
    return triaged.n_false


def _forget(files: ScanFiles, settings: Settings) -> None:
    """Removes what would be read back: the prediction's facts, and this method's maps."""
    files.lesions_sidecar.unlink(missing_ok=True)
    files.facts.unlink(missing_ok=True)
    for (_, desc), path in files.saliency_files().items():
        if desc == settings.method.name:
            path.unlink(missing_ok=True)


def _found(explained: Explained) -> str:
    outcomes = [one.outcome or "predicted" for one in explained.instances]
    counts = ", ".join(f"{outcomes.count(o)} {o}" for o in sorted(set(outcomes))) or "no lesions"
    return f"{counts}; {len(explained.maps)} explained"


@lru_cache(maxsize=1)
def _triage(triage: TriageRef) -> TriageModel:
    """Read once per process. Raises InputError if it is not the one that the study was started with."""
    loaded = load_triage(triage.ref)
    if loaded.fingerprint != triage.fingerprint:
        raise InputError(
            f"Expected the triage model {triage.ref} with fingerprint {triage.fingerprint}, found {loaded.fingerprint}: "
            "all workers must see the same file."
        )
    return loaded
