"""The participant level: every scan of a plan explained, whatever happens to single ones."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lesionwise.study.engines import AbstractEngine, InProcess, UnitFault
from lesionwise.study.left_out import write_left_out
from lesionwise.study.plan import StudyPlan, is_finished
from lesionwise.study.unit import ModelRef, ScanOutcome, ScanTask, TriageRef, explain_scan, outcome_of_fault
from lesionwise.units import ProgressFn, Settings

WAIT_S = (1.0, 30.0)
"""First and longest pause, in s, before asking again for scans that another run has in hand."""


@dataclass(frozen=True)
class StudyResult:
    """Outcomes of all scans of a run by the order of their names, and the reasons why some were left out."""

    outcomes: tuple[ScanOutcome, ...]
    left_out: tuple[tuple[str, str], ...]
    seconds: float

    def count(self, status: str) -> int:
        """Scans with this status."""
        return sum(outcome.status == status for outcome in self.outcomes)


def make_tasks(
    plan: StudyPlan,
    *,
    model: ModelRef,
    settings: Settings,
    version: str = "",
    resume: bool = True,
    resample: bool = False,
    memory_bytes: int | None = None,
    triage: TriageRef | None = None,
) -> list[ScanTask]:
    """A task per scan of the plan."""
    out = Path(plan.out).resolve()
    return [
        ScanTask(scan, out, model, settings, version, resume, resample, memory_bytes, triage) for scan in plan.scans
    ]


def run_participant(
    plan: StudyPlan,
    tasks: Sequence[ScanTask],
    *,
    engine: AbstractEngine | None = None,
    unit_fn: Callable[[ScanTask], ScanOutcome] = explain_scan,
    progress_fn: ProgressFn | None = None,
    announce_fn: Callable[[str], None] | None = None,
) -> StudyResult:
    """Explains all scans that are not finished yet and lists those left out in `OUT/study/left_out.tsv`.

    Scans that another run on the same OUT has in hand are waited for, and taken over if that run dies.
    `progress_fn("study", done, total)` counts scans.
    """
    say = announce_fn or (lambda sentence: None)
    engine = engine or InProcess()
    started = time.perf_counter()
    outcomes: dict[int, ScanOutcome] = {}
    for index, task in enumerate(tasks):
        if task.resume and is_finished(task):
            outcomes[index] = ScanOutcome(task.files.name.stem, "kept")
    if outcomes:
        say(f"{len(outcomes)} of {len(tasks)} scans are finished already and are kept.")
    todo = [index for index in range(len(tasks)) if index not in outcomes]
    pause_s = WAIT_S[0]
    while todo:
        busy: list[int] = []
        for position, result in engine.run([tasks[index] for index in todo], unit_fn):
            index = todo[position]
            outcome = _outcome(tasks[index], result)
            if outcome.status == "busy":
                busy.append(index)
                continue
            outcomes[index] = outcome
            _tell(outcome, len(outcomes), len(tasks), say)
            if progress_fn is not None:
                progress_fn("study", len(outcomes), len(tasks))
        if len(busy) == len(todo):
            if pause_s == WAIT_S[0]:
                say(f"{len(busy)} scans are in the hands of another run; waiting for them.")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, WAIT_S[1])
        else:
            pause_s = WAIT_S[0]
        todo = sorted(busy)
    share = {scan.name.stem for scan in (*plan.scans, *plan.shard.of(plan.left_out))}
    rows = write_left_out(plan.out, plan.left_out, subjects=plan.subjects)
    left_out = tuple((stem, reason) for stem, _, reason in rows if stem in share)
    return StudyResult(tuple(outcomes[index] for index in range(len(tasks))), left_out, time.perf_counter() - started)


def _outcome(task: ScanTask, result: ScanOutcome | UnitFault) -> ScanOutcome:
    if isinstance(result, UnitFault):
        return outcome_of_fault(task, result.reason, result.details)
    return result


def _tell(outcome: ScanOutcome, done: int, total: int, say: Callable[[str], None]) -> None:
    what = {
        "done": f"{outcome.reason}, {outcome.seconds:.0f} s",
        "kept": "finished already",
        "left_out": f"left out: {outcome.reason}",
    }[outcome.status]
    say(f"[{done}/{total}] {outcome.stem}: {what}")
