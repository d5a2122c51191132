"""The participant level: every scan of a plan explained, whatever happens to single ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lesionwise.cohort.engines import AbstractEngine
from lesionwise.cohort.runner import CohortResult, run_cohort
from lesionwise.cohort.unit import Outcome, ScanUnit, run_unit
from lesionwise.cohort.within import WithinFn
from lesionwise.models.reference import ModelRef
from lesionwise.study.left_out import left_out_list
from lesionwise.study.plan import StudyPlan
from lesionwise.study.unit import ScanTask, TriageRef
from lesionwise.types import ProgressFn
from lesionwise.units import Settings


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
    why: bool = False,
) -> list[ScanTask]:
    """A task per scan of the plan."""
    out = Path(plan.out).resolve()
    return [
        ScanTask(
            scan,
            out,
            model,
            settings,
            version,
            resume,
            resample,
            memory_bytes,
            triage,
            why,
            plan.refused.get(scan.name.stem, ""),
        )
        for scan in plan.scans
    ]


def run_participant(
    plan: StudyPlan,
    tasks: Sequence[ScanTask],
    *,
    engine: AbstractEngine | None = None,
    unit_fn: Callable[[ScanUnit], Outcome] = run_unit,
    progress_fn: ProgressFn | None = None,
    within_fn: WithinFn | None = None,
    announce_fn: Callable[[str], None] | None = None,
) -> CohortResult:
    """Explains all scans that are not finished yet and lists those left out in `OUT/study/left_out.tsv`.

    `progress_fn("study", done, total)` counts scans, `within_fn(scan, stage, done, total)` the steps of each; see
    `lesionwise.cohort.run_cohort`.
    """
    result = run_cohort(
        [task.unit for task in tasks],
        engine=engine,
        unit_fn=unit_fn,
        left_out=left_out_list(plan.out),
        missing=plan.left_out,
        subjects=plan.subjects,
        progress_fn=progress_fn,
        within_fn=within_fn,
        announce_fn=announce_fn,
    )
    mine = {scan.name.stem for scan in plan.scans} | {scan.name.stem for scan in plan.shard.of(plan.left_out)}
    return result.among(mine)
