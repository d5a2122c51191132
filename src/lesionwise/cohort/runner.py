"""The runner: every unit that is not finished is done, whatever happens to single ones."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lesionwise.cohort import claims
from lesionwise.cohort.engines import AbstractEngine, InProcess, UnitFault
from lesionwise.cohort.left_out import LeftOutList
from lesionwise.cohort.shard import Shard
from lesionwise.cohort.unit import Outcome, ScanUnit, is_finished, outcome_of_fault, run_unit
from lesionwise.cohort.within import WithinFn, listening
from lesionwise.errors import InputError
from lesionwise.io.bids import LeftOut
from lesionwise.types import ProgressFn

WAIT_S = (1.0, 30.0)
"""First and longest pause, in s, before asking again for units that another run has in hand."""


@dataclass(frozen=True)
class CohortResult:
    """Outcomes of all units in their order, and the scans left out with the reasons, those without a unit included."""

    outcomes: tuple[Outcome, ...]
    left_out: tuple[tuple[str, str], ...]
    seconds: float

    def count(self, status: str) -> int:
        """Units with this status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def among(self, stems: Collection[str]) -> "CohortResult":
        """The same with those left out that are among `stems`."""
        return replace(self, left_out=tuple(row for row in self.left_out if row[0] in stems))


@dataclass
class CohortRunner:
    """How a command runs its cohorts: on what engine, which share, what is kept; it collects the scans left out.

    Functions that work scan by scan take one, so that every command has the same options.
    """

    engine: AbstractEngine = field(default_factory=InProcess)
    shard: Shard = field(default_factory=Shard)
    resume: bool = True
    progress_fn: ProgressFn | None = None
    announce_fn: Callable[[str], None] | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        units: Sequence[ScanUnit],
        *,
        stage: str,
        listed: LeftOutList | None = None,
        missing: Sequence[LeftOut] = (),
        subjects: Collection[str] | None = None,
    ) -> CohortResult:
        """As `run_cohort`, with this share's units; its scans left out are added to `left_out`, by stem with the reason."""
        result = run_cohort(
            units if self.resume else [replace(unit, resume=False) for unit in units],
            engine=self.engine,
            left_out=listed,
            missing=missing,
            subjects=subjects,
            stage=stage,
            progress_fn=self.progress_fn,
            announce_fn=self.announce_fn,
        )
        mine = {unit.name.stem for unit in units} | {scan.name.stem for scan in self.shard.of(missing)}
        result = result.among(mine)
        self.left_out |= dict(result.left_out)
        return result


def run_cohort(
    units: Sequence[ScanUnit],
    *,
    engine: AbstractEngine | None = None,
    left_out: LeftOutList | None = None,
    missing: Sequence[LeftOut] = (),
    subjects: Collection[str] | None = None,
    unit_fn: Callable[[ScanUnit], Outcome] = run_unit,
    stage: str = "study",
    progress_fn: ProgressFn | None = None,
    within_fn: WithinFn | None = None,
    announce_fn: Callable[[str], None] | None = None,
) -> CohortResult:
    """Does all units that are not finished yet, and writes the list of scans left out.

    `missing` are scans that never became a unit (the data set lacks an image of them), and `left_out` the list to bring
    up to date; rows of other `subjects` (None: there are none) stay in it. Units that another run on the same OUT has in
    hand are waited for, and taken over if that run dies. `progress_fn(stage, done, total)` counts units from the start,
    finished ones included; `within_fn(unit, stage, done, total)` hears how far each is; `announce_fn` gets a sentence per unit.

    Raises InputError if the disk is full: what is computed then could not be kept.
    """
    say = announce_fn or (lambda text: None)
    tell = progress_fn or (lambda *_: None)
    engine = engine or InProcess()
    started = time.perf_counter()
    kept = [unit.resume and is_finished(unit) for unit in units]
    for unit, finished in zip(units, kept, strict=True):
        if finished:
            claims.sweep(unit.claim_path)
    outcomes = {n: Outcome(unit.stem, "kept") for n, unit in enumerate(units) if kept[n]}
    if outcomes:
        say(f"{len(outcomes)} of {len(units)} {_scans(units)} are finished already and are kept.")
    tell(stage, len(outcomes), len(units))
    todo = [number for number in range(len(units)) if number not in outcomes]
    pause_s = WAIT_S[0]
    while todo:
        busy: list[int] = []
        results = engine.run([units[number] for number in todo], unit_fn)
        while (found := _next(results, within_fn)) is not None:
            position, result = found
            number = todo[position]
            outcome = _outcome(units[number], result)
            if outcome.status == "busy":
                busy.append(number)
                continue
            outcomes[number] = outcome
            _tell(outcome, len(outcomes), len(units), say)
            tell(stage, len(outcomes), len(units))
        if len(busy) == len(todo):
            if pause_s == WAIT_S[0]:
                say(f"{len(busy)} scans are in the hands of another run; waiting for them.")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, WAIT_S[1])
        else:
            pause_s = WAIT_S[0]
        todo = sorted(busy)
    told = [(unit.name.stem, outcomes[n].reason) for n, unit in enumerate(units) if outcomes[n].status == "left_out"]
    told += [(scan.name.stem, scan.reason) for scan in missing]
    if left_out is not None:
        left_out.write(missing, subjects=subjects)
    ordered = tuple(outcomes[number] for number in range(len(units)))
    return CohortResult(ordered, tuple(sorted(dict(told).items())), time.perf_counter() - started)


def _next(results: Iterator[tuple[int, Any]], within_fn: WithinFn | None) -> tuple[int, Any] | None:
    """The next result; what units tell until it is there goes to `within_fn`."""
    with listening(within_fn):
        return next(results, None)


def _outcome(unit: ScanUnit, result: Outcome | UnitFault) -> Outcome:
    if isinstance(result, UnitFault):
        return outcome_of_fault(unit, result.reason, result.details)
    if result.status == "no_room":
        raise InputError(
            f"Expected room for results in {unit.out}, but its disk is full ({result.reason}). Nothing more is computed; "
            "what was finished is kept, and the same command goes on from there."
        )
    return result


def _scans(units: Sequence[ScanUnit]) -> str:
    return "parts of scans" if any(unit.part for unit in units) else "scans"


def _tell(outcome: Outcome, done: int, total: int, say: Callable[[str], None]) -> None:
    what = {
        "done": f"{outcome.reason}, {outcome.seconds:.0f} s" if outcome.reason else f"{outcome.seconds:.0f} s",
        "kept": "finished already",
        "left_out": f"left out: {outcome.reason}",
    }[outcome.status]
    say(f"[{done}/{total}] {outcome.stem}: {what}")
