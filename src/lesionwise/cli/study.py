"""`lesionwise study`: a BIDS App over a whole data set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesionwise import __version__
from lesionwise.cli import options as o
from lesionwise.cli.bids_app import BidsAppCommand
from lesionwise.cli.console import Reporter, reporting
from lesionwise.cli.spread import Spread, absolute_ref, tell_left_out
from lesionwise.errors import InputError

if TYPE_CHECKING:
    from lesionwise.cohort import CohortResult
    from lesionwise.segmenter import AbstractSegmenter
    from lesionwise.study.plan import StudyPlan
    from lesionwise.study.unit import ScanTask

COUNT_UP_TO = 200
"""Scans up to which a dry run counts every scan's reference lesions."""


class Level(StrEnum):
    """The BIDS App's analysis levels."""

    participant = "participant"
    group = "group"


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=BidsAppCommand)
@o.with_choices(without=("tolerance",))  # a cohort is compared at one fixed number of samples
def study(
    *,
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set.")],
    out: Annotated[Path, typer.Argument(help="Output folder: a BIDS derivative.")],
    level: Annotated[Level, typer.Argument(help="participant explains every scan, group collects the cohort.")],
    participant_label: o.ParticipantLabel = None,
    session_label: o.SessionLabel = None,
    bids_filter: o.BidsFilter = None,
    reference_from: o.ReferenceFrom = None,
    reference_label: o.ReferenceLabel = None,
    reference_threshold: o.ReferenceThreshold = None,
    brain_masks_from: Annotated[
        Path | None, typer.Option("--brain-masks-from", help="Folder of brain masks, for heads with skull.")
    ] = None,
    resample: o.Resample = False,
    prepare: o.Prepare = False,
    brain_extraction: o.BrainExtraction = "deepbet",
    onto: o.Onto = "FLAIR",
    shard: o.Shard = "1/1",
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    resume: o.Resume = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    model: o.Model = "builtin",
    trust: o.Trust = False,
    choices: o.Choices,
    triage: o.Triage = None,
    why: o.Why = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="group: write the cohort's report.")] = True,
) -> None:
    """Explain every scan of a BIDS data set (participant), then collect the cohort (group).

    Finished scans are kept, so the same command goes on where it was stopped. Exit code 3: some scans were left out,
    with the reasons in OUT/study/left_out.tsv.
    """
    if level is Level.group:
        collect(out, report=report)
        return
    # heavy imports wait until they are needed: the group level runs without torch
    from lesionwise.cohort.shard import Shard
    from lesionwise.config import write_config
    from lesionwise.io.bids import read_filters
    from lesionwise.io.files import check_output
    from lesionwise.io.masks import ReferenceRule
    from lesionwise.models.reference import ModelRef
    from lesionwise.study.participant import make_tasks, run_participant
    from lesionwise.study.plan import plan_study
    from lesionwise.study.unit import TriageRef
    from lesionwise.triage.model import load_triage
    from lesionwise.units import model_facts

    check_output(out)
    share, spread = Shard.parse(shard), Spread(workers, scheduler)
    where = spread.device(choices.device)
    reference = ModelRef.of(model, trust=trust, device=where if dry_run else "cpu")
    segmenter = reference.load(where if dry_run else "cpu")
    channels = segmenter.spec.channels
    settings = o.settings_of(segmenter, replace(choices, device=where))
    judge = None if triage is None else load_triage(triage)
    if judge is not None:
        judge.check_channels(channels)
    preparation = None
    if prepare:
        from lesionwise.cli.prepare import preparation_of

        if brain_masks_from is not None:
            raise InputError(
                "Expected either --prepare or --brain-masks-from, found both: preparing finds the brain itself."
            )
        preparation = preparation_of(onto, brain_extraction, channels=channels)
    plan = plan_study(
        bids_dir,
        out,
        channels=channels,
        optional_channels=segmenter.spec.optional_channels,
        participants=participant_label,
        sessions=session_label,
        filters=None if bids_filter is None else read_filters(bids_filter, channels=channels),
        reference_from=reference_from,
        reference_rule=ReferenceRule.read(reference_label, reference_threshold),
        brain_masks_from=brain_masks_from,
        shard=share,
    )
    if not plan.scans and not plan.left_out:
        if share.count == 1:
            raise InputError(f"Expected scans of {bids_dir} with the labels asked for, found none.")
        typer.echo(f"No scan falls to share {share.index}/{share.count}.")
        return
    engine = None if dry_run else spread.engine(settings.device, sees=[bids_dir], writes=out)
    raw: tuple[str, ...] = ()
    if preparation is not None:
        from lesionwise.cli.prepare import foreseen_plan, prepared_plan

        if engine is None:
            plan, raw = foreseen_plan(plan, preparation, resume=resume)
        else:
            plan = prepared_plan(plan, preparation, engine=engine, resume=resume)
    tasks = make_tasks(
        plan,
        model=reference,
        settings=settings,
        version=__version__,
        resume=resume,
        resample=resample,
        memory_bytes=spread.memory_bytes(settings.device),
        triage=None if judge is None else TriageRef(absolute_ref(str(triage)), judge.fingerprint),
        why=why,
    )
    if dry_run:
        show_plan(plan, tasks, segmenter, raw=raw)
        return
    with reporting() as reporter:
        reporter.say(f"{len(tasks)} scan{'' if len(tasks) == 1 else 's'} on {engine.description}.")  # type: ignore[union-attr]
        judged_by = None if judge is None else {"model": str(triage), "fingerprint": judge.fingerprint}
        write_config(out, settings, model_facts(segmenter), version=__version__, triage=judged_by)
        result = run_participant(
            plan,
            tasks,
            engine=engine,
            progress_fn=reporter.step,
            within_fn=reporter.within,
            announce_fn=reporter.say,
        )
    conclude(result, out)


def show_plan(
    plan: "StudyPlan", tasks: "Sequence[ScanTask]", model: "AbstractSegmenter", *, raw: Sequence[str] = ()
) -> None:
    """`--dry-run`: every scan with what is known of it, scans that cannot be used, and what it all will cost.

    `raw` are the stems of those that are still to be prepared: nothing can be measured on them yet.
    """
    from lesionwise.cohort import is_finished
    from lesionwise.study.estimate import estimate, known_lesions

    usable = [task for task in tasks if not task.refused]
    for task in usable:
        count = None
        if len(tasks) <= COUNT_UP_TO:
            count = known_lesions(task.scan, connectivity=task.settings.connectivity)
        known = "" if count is None else f", {count} reference lesions"
        state = "finished" if task.resume and is_finished(task.unit) else "to do"
        if task.scan.name.stem in raw:
            state = "to prepare, then to do"
        typer.echo(f"{task.scan.name.stem}: {state}{known}")
    left_out = [(scan.name.stem, scan.reason) for scan in plan.left_out] + list(plan.refused.items())
    for stem, reason in left_out:
        typer.echo(f"{stem}: left out, {reason}")
    if left_out:
        typer.echo(f"{len(left_out)} left out.")
    if raw:
        typer.echo(f"{len(raw)} scan{'' if len(raw) == 1 else 's'} to prepare first.")
    if len(raw) < len(usable):
        for sentence in estimate(usable, model, usable[0].settings).sentences():
            typer.echo(sentence)
    elif raw:
        typer.echo("Lesions, time and disk can be estimated once a scan is prepared.")


def collect(out: Path, *, report: bool) -> None:
    """The group level."""
    from lesionwise.study.group import run_group

    with reporting() as reporter:
        result = run_group(out, report_fn=_group_report(reporter) if report else None, announce_fn=reporter.say)
    shown = f" Report: {result.report}" if result.report is not None else ""
    typer.echo(
        f"{result.scans} scans of {result.patients} patients, {result.rows} rows; {result.outliers} outliers to look at, "
        f"{result.left_out} scans left out.{shown}"
    )
    tell_left_out(result.damaged, out / "study" / "left_out.tsv")


def conclude(result: "CohortResult", out: Path) -> None:
    """Says what was done; exit code 3 if scans were left out."""
    done = result.count("done")
    typer.echo(
        f"{done} scan{'' if done == 1 else 's'} explained, {result.count('kept')} kept, {len(result.left_out)} left out "
        f"in {result.seconds:.0f} s. Results: {out}"
    )
    tell_left_out(result.left_out, out / "study" / "left_out.tsv")


def _group_report(reporter: Reporter) -> Callable[[Path], Path]:
    def write(out: Path) -> Path:
        from lesionwise.report.group import write_group_report

        reporter.say("Writing the report.")
        return write_group_report(out)

    return write
