"""The unit of work: one scan, done by whichever process has it in hand."""

import errno
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lesionwise.cohort.claims import Claim
from lesionwise.cohort.receipts import STATE, Receipt, input_stamps, note_inputs, remove_leftovers
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import write_json
from lesionwise.io.noted import Noted, note_files

_ONE_UNIT = threading.Lock()
"""A process works on one unit, even as a cluster worker with several threads: hooks, cores and memory are one."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

Status = Literal["done", "kept", "left_out", "busy", "no_room"]


@dataclass(frozen=True)
class UnitResult:
    """What a scan's work left: the files it wrote below OUT, a sentence for people, and plain values to keep."""

    outputs: Sequence[Path]
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanUnit:
    """One scan's work, as any process can do it.

    `run_fn()` does the work, writes its files below `out` and returns what it left; it must be picklable (a function
    of a module, or `functools.partial` of one) to run elsewhere than here. What is wrong with the scan it raises as
    InputError: the scan is then left out with that sentence, and the others go on.

    `work` names the kind of work ("explain", "prepare") and keeps its receipts apart from those of other work on the
    same OUT; `part` tells several units of one scan apart. The work is finished if a receipt has the same key, which
    is the hash of the content of all files in `inputs` and of `depends_on` (by its `repr`: settings, fingerprints), if
    all files it wrote are as they were, and if `sound_fn()` (where given) does not object.
    """

    work: str
    name: ScanName
    out: Path
    run_fn: Callable[[], UnitResult]
    inputs: Mapping[str, Path] = field(default_factory=dict)
    depends_on: tuple[Any, ...] = ()
    part: str = ""
    resume: bool = True
    sound_fn: Callable[[], bool] | None = None

    @property
    def stem(self) -> str:
        """The unit's own name: the scan's, and its part."""
        return f"{self.name.stem}_{self.part}" if self.part else self.name.stem

    @property
    def receipt_path(self) -> Path:
        """Where it is noted that the unit is finished."""
        return state_folder(self.out, self.work) / "receipts" / f"{self.stem}.json"

    @property
    def claim_path(self) -> Path:
        """Where the unit's claim lies while somebody works on it."""
        return state_folder(self.out, self.work) / "claims" / f"{self.stem}.json"

    @property
    def reason_path(self) -> Path:
        """Where it is noted why the unit could not be done."""
        return state_folder(self.out, self.work) / "left_out" / f"{self.stem}.json"

    def key(self, inputs: Mapping[str, Noted]) -> str:
        """Hash of the inputs' content and of all that the work depends on; not of the place or the time."""
        hashes = sorted((what, noted.sha256) for what, noted in inputs.items())
        return hashlib.sha256(repr((self.work, self.part, hashes, self.depends_on)).encode()).hexdigest()[:24]

    def is_served(self, receipt: Receipt, inputs: Mapping[str, Noted]) -> bool:
        """True if finished work is what this unit asks for, and is still there as it was written."""
        same = receipt.key == self.key(inputs) and not receipt.damaged(self.out)
        return same and (self.sound_fn is None or self.sound_fn())


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: done now, found finished, left out for a `reason`, or in another run's hands.

    `no_room` says that the disk is full. `reason` is the sentence of finished work, too.
    """

    stem: str
    status: Status
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def state_folder(out: Path, work: str) -> Path:
    """Folder of the receipts, claims and reasons of one kind of work."""
    return Path(out) / STATE / work.replace(" ", "-")


def is_finished(unit: ScanUnit) -> bool:
    """True if the unit was finished with equal inputs and settings, told without opening an input.

    An input counts as equal if its path, size and time stamps are those noted when its content was hashed; otherwise the
    unit itself compares the content.
    """
    receipt = Receipt.read(unit.receipt_path)
    if receipt is None:
        return False
    stamps = {what: noted.stamp for what, noted in receipt.inputs.items()}
    return stamps == input_stamps(unit.inputs) and unit.is_served(receipt, receipt.inputs)


def run_unit(unit: ScanUnit) -> Outcome:
    """Does a unit unless it is finished or another run has it; results, receipt and reason are in OUT on return.

    What is wrong with the scan, with memory or with the disk becomes the outcome's reason; any other error is raised.
    """
    started = time.perf_counter()
    with _ONE_UNIT:
        try:
            claim = Claim.take(unit.claim_path)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return Outcome(unit.stem, "no_room", sentence(str(error)))
            raise
        if claim is None:
            return Outcome(unit.stem, "busy")
        with claim:
            return _conclude(unit, _attempt(unit, started))


def outcome_of_fault(unit: ScanUnit, reason: str, details: str = "") -> Outcome:
    """Leaves a unit out, with a note in OUT, for a reason that its own work did not report."""
    more = {"Details": details} if details else {}
    write_json(unit.reason_path, {"Scan": unit.name.stem, "Reason": sentence(reason), **more})
    return Outcome(unit.stem, "left_out", sentence(reason))


def sentence(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def _attempt(unit: ScanUnit, started: float) -> Outcome:
    try:
        return _done_or_kept(unit, started)
    except OSError as error:
        if error.errno in _NO_ROOM or "No space left on device" in str(error):
            return Outcome(unit.stem, "no_room", sentence(str(error)))
        if not isinstance(error, InputError | FileNotFoundError | PermissionError):
            raise
        return Outcome(unit.stem, "left_out", sentence(str(error)))
    except InputError as error:
        memory = "not enough memory: " if isinstance(error, MemoryError) else ""
        return Outcome(unit.stem, "left_out", sentence(f"{memory}{error}"))
    except MemoryError as error:
        return Outcome(unit.stem, "left_out", sentence(f"not enough memory: {error}"))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's own, known without loading torch
            raise
        return Outcome(unit.stem, "left_out", sentence(f"not enough GPU memory: {error}"))


def _done_or_kept(unit: ScanUnit, started: float) -> Outcome:
    known = Receipt.read(unit.receipt_path)
    inputs = note_inputs(unit.inputs, known)
    if unit.resume and known is not None and unit.is_served(known, inputs):
        if known.inputs != inputs:
            replace(known, inputs=inputs).write(unit.receipt_path)
        return Outcome(unit.stem, "kept", known.note, known.facts or {})
    for path in [] if known is None else known.damaged(unit.out):
        path.unlink(missing_ok=True)  # it is not what was written: nothing of it is read back
    unit.receipt_path.unlink(missing_ok=True)
    for path in (unit.receipt_path, unit.reason_path):
        remove_leftovers(path.parent, path.name)
    result = unit.run_fn()
    if input_stamps(unit.inputs) != {what: noted.stamp for what, noted in inputs.items()}:
        raise InputError("its files changed while they were read")
    outputs = note_files(unit.out, result.outputs)
    seconds = time.perf_counter() - started
    Receipt(unit.key(inputs), inputs, outputs, result.note, result.facts, seconds).write(unit.receipt_path)
    return Outcome(unit.stem, "done", result.note, result.facts, seconds)


def _conclude(unit: ScanUnit, outcome: Outcome) -> Outcome:
    """Notes why a unit was left out, and takes away an earlier reason from one that was not."""
    if outcome.status == "left_out":
        write_json(unit.reason_path, {"Scan": unit.name.stem, "Reason": outcome.reason})
    elif outcome.status != "no_room":
        unit.reason_path.unlink(missing_ok=True)
    return outcome
