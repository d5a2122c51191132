"""The unit of work: one scan, explained into OUT by whichever process has it in hand."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from lesionwise.errors import InputError, OutOfMemoryError
from lesionwise.io.bids import BidsScan
from lesionwise.io.cases import read_case
from lesionwise.io.derivative import ScanFiles, write_json
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.study.claims import Claim
from lesionwise.study.engines import cluster_memory_bytes
from lesionwise.study.receipts import (
    Receipt,
    claim_path,
    hash_inputs,
    input_stamps,
    of_longer_name,
    reason_path,
    receipt_path,
    remove_leftovers,
)
from lesionwise.triage.apply import triage_scan, write_triage
from lesionwise.triage.model import TriageModel, load_triage
from lesionwise.units import Explained, Settings, explain_case
from lesionwise.units.work import MEMORY_SHARE

_ONE_UNIT = threading.Lock()
"""A process works on one unit, even as a cluster worker with several threads: hooks, cores and memory are one."""

Status = Literal["done", "kept", "left_out", "busy"]


@dataclass(frozen=True)
class ModelRef:
    """A model by name or path, with the fingerprint that it must have wherever it is loaded."""

    ref: str
    fingerprint: str
    trust: bool = False


@dataclass(frozen=True)
class TriageRef:
    """A triage model by name or path, with the fingerprint that it must have wherever it is read."""

    ref: str
    fingerprint: str


@dataclass(frozen=True)
class ScanTask:
    """Everything a process needs to explain one scan, and to judge its lesions if `triage` names a model."""

    scan: BidsScan
    out: Path
    model: ModelRef
    settings: Settings
    version: str = ""
    resume: bool = True
    resample: bool = False
    memory_bytes: int | None = None
    triage: TriageRef | None = None

    @property
    def files(self) -> ScanFiles:
        """Where the scan's outputs lie."""
        return ScanFiles(self.out, self.scan.name)

    @property
    def inputs(self) -> dict[str, Path]:
        """All files that the scan's results depend on."""
        extra = {"reference": self.scan.reference, "brain mask": self.scan.brain_mask}
        return {**self.scan.images, **{what: path for what, path in extra.items() if path is not None}}

    def key(self, hashes: Mapping[str, str]) -> str:
        """Hash of the inputs' content, the model and the settings; not of the device, the place or the time.

        The triage model is no part of it: maps do not depend on it (see `is_served`).
        """
        chosen = [(f.name, getattr(self.settings, f.name)) for f in fields(self.settings) if f.name != "device"]
        parts = (sorted(hashes.items()), self.model.fingerprint, chosen, self.resample)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def is_served(task: ScanTask, receipt: Receipt, hashes: Mapping[str, str]) -> bool:
    """True if a finished scan is what the task asks for: equal inputs, model and settings, judged by its triage model."""
    judged = task.triage is None or receipt.triage == task.triage.fingerprint
    return judged and receipt.key == task.key(hashes) and receipt.outputs_exist(task.files)


@dataclass(frozen=True)
class ScanOutcome:
    """What became of a scan: explained now, found finished, left out for a `reason`, or in another run's hands."""

    stem: str
    status: Status
    reason: str = ""
    lesions: int = 0
    seconds: float = 0.0


def explain_scan(task: ScanTask) -> ScanOutcome:
    """Explains a scan unless it is finished or another run has it; results, receipt and reason are in OUT on return.

    What is wrong with the scan or with memory becomes the outcome's reason; any other error is raised.
    """
    files, started = task.files, time.perf_counter()
    with _ONE_UNIT, _claimed(task) as claim:
        if claim is None:
            return ScanOutcome(files.name.stem, "busy")
        try:
            outcome = _explain(task, started)
        except torch.OutOfMemoryError as error:
            outcome = ScanOutcome(files.name.stem, "left_out", _sentence(f"not enough GPU memory: {error}"))
        except (OutOfMemoryError, MemoryError) as error:
            outcome = ScanOutcome(files.name.stem, "left_out", _sentence(f"not enough memory: {error}"))
        except (InputError, FileNotFoundError, PermissionError) as error:
            outcome = ScanOutcome(files.name.stem, "left_out", _sentence(str(error)))
        if outcome.status == "left_out":
            write_json(reason_path(files), {"Reason": outcome.reason})
        else:
            reason_path(files).unlink(missing_ok=True)
        return outcome


def outcome_of_fault(task: ScanTask, reason: str, details: str = "") -> ScanOutcome:
    """The outcome of a unit whose process could not report it itself."""
    sentence = _sentence(reason)
    write_json(reason_path(task.files), {"Reason": sentence, **({"Details": details} if details else {})})
    return ScanOutcome(task.files.name.stem, "left_out", sentence)


def _explain(task: ScanTask, started: float) -> ScanOutcome:
    files, scan = task.files, task.scan
    known = Receipt.read(files)
    stamps = input_stamps(task.inputs)
    hashes = hash_inputs(task.inputs, known)
    if task.resume and known is not None and is_served(task, known, hashes):
        if known.stamps != stamps:
            replace(known, stamps=stamps, hashes=hashes).write(files)
        return ScanOutcome(files.name.stem, "kept", known.note, known.lesions)
    receipt_path(files).unlink(missing_ok=True)
    remove_leftovers(files)
    if not task.resume:
        _forget(files, task.settings)
    model = _model(task.model, task.settings.device)
    triage = None if task.triage is None else _triage(task.triage)
    case = read_case(
        scan.images, reference=scan.reference, brain_mask=scan.brain_mask, resample=task.resample, name=scan.name
    )
    if input_stamps(task.inputs) != stamps:
        raise InputError("its files changed while they were read")
    memory_bytes = task.memory_bytes
    if memory_bytes is None and task.settings.device == "cpu" and (limit := cluster_memory_bytes()) is not None:
        memory_bytes = int(MEMORY_SHARE * limit)
    explained = explain_case(model, case, task.settings, out=task.out, version=task.version, memory_bytes=memory_bytes)
    note, judged = _found(explained), ""
    if triage is not None:
        judged = triage.fingerprint
        note += f", {_judge(explained, triage, model, task.out)} probably false"
    Receipt(task.key(hashes), stamps, hashes, _outputs(files), len(explained.maps), note, judged).write(files)
    return ScanOutcome(files.name.stem, "done", note, len(explained.maps), time.perf_counter() - started)


def _judge(explained: Explained, triage: TriageModel, model: AbstractSegmenter, out: Path) -> int:
    """Writes the verdicts; returns how many lesions are probably false."""
    triaged = triage_scan(explained, triage, segmenter=model)
    write_triage(triaged, out, model=triage)
    return triaged.n_false


def _outputs(files: ScanFiles) -> tuple[str, ...]:
    """Names of all files of this scan, temporary ones of other processes aside."""
    names = (path.name for path in files.folder.glob(f"{files.name.stem}_*"))
    prefix = files.name.stem
    return tuple(sorted(n for n in names if not n.startswith(".") and not of_longer_name(n, prefix)))


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
def _model(model: ModelRef, device: str) -> AbstractSegmenter:
    """Loaded once per process. Raises InputError if it is not the model that the study was started with."""
    loaded = load_model(model.ref, trust=model.trust, device=device)
    if loaded.fingerprint != model.fingerprint:
        raise InputError(
            f"Expected the model {model.ref} with fingerprint {model.fingerprint}, found {loaded.fingerprint} on "
            f"{os.uname().nodename if hasattr(os, 'uname') else 'this machine'}: all workers must see the same files."
        )
    return loaded


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


@contextmanager
def _claimed(task: ScanTask) -> Iterator[Claim | None]:
    claim = Claim.take(claim_path(task.files))
    try:
        yield claim
    finally:
        if claim is not None:
            claim.release()


def _sentence(text: str) -> str:
    return " ".join(text.split())
