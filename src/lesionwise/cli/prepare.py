"""`lesionwise prepare`, and `--prepare` of explain and study."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesionwise import __version__
from lesionwise.cli import options as o
from lesionwise.cli.bids_app import BidsAppCommand
from lesionwise.cli.console import reporting
from lesionwise.cli.spread import Spread, tell_left_out
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import BidsScan, find_scans, read_filters
from lesionwise.io.files import check_output

if TYPE_CHECKING:
    from lesionwise.cohort.engines import AbstractEngine
    from lesionwise.prepare.scan import Preparation
    from lesionwise.prepare.unit import PrepareTask
    from lesionwise.study.plan import StudyPlan

INSIDE = Path("derivatives", "prepare")
"""Where explain and study keep prepared scans, below their own output folder."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=BidsAppCommand)
def prepare(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set of the scanner's files (with --dicom: made here).")],
    out: Annotated[Path, typer.Argument(help="Output folder: a BIDS derivative.")],
    participant_label: o.ParticipantLabel = None,
    session_label: o.SessionLabel = None,
    channel: Annotated[
        list[str] | None, typer.Option("--channel", help="Channels that a scan must have (FLAIR and T1w).")
    ] = None,
    onto: o.Onto = "FLAIR",
    brain_extraction: o.BrainExtraction = "deepbet",
    bids_filter: o.BidsFilter = None,
    reference_from: o.ReferenceFrom = None,
    dicom: o.Dicom = None,
    subject: Annotated[str, typer.Option("--subject", help="Subject label of the DICOM files.")] = "01",
    shard: o.Shard = "1/1",
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    resume: o.Resume = True,
) -> None:
    """Align, brain-extract and bias-correct every scan of a BIDS data set, and say how far each is to be trusted.

    Scans that are ready are left alone. Exit code 3: some were set aside or left out, with the reasons in
    OUT/left_out.tsv; a person looks at their figures first.
    """
    from lesionwise.cohort.shard import Shard
    from lesionwise.prepare.dicom import convert_dicom
    from lesionwise.prepare.unit import PrepareTask, prepare_cohort

    check_output(out)
    channels = tuple(channel or ("FLAIR", "T1w"))
    choices = preparation_of(onto, brain_extraction, channels=channels)
    if bids_dir.resolve() == out.resolve():
        raise InputError(f"Expected OUT to be another folder than the data set, found {out} for both.")
    if dicom is not None:
        name = ScanName(o.subject_of(subject))
        channels = tuple(convert_dicom(dicom, bids_dir, name, channels=channels))
        participant_label = [name.subject]
    found = find_scans(
        bids_dir,
        channels=channels,
        participants=participant_label,
        sessions=session_label,
        filters=None if bids_filter is None else read_filters(bids_filter, channels=channels),
        reference_from=reference_from,
    )
    share = Shard.parse(shard)
    scans = share.of(found.scans)
    engine = Spread(workers, scheduler).engine("cpu", sees=[bids_dir], writes=out)
    whole = out.resolve()
    with reporting() as reporter:
        result = prepare_cohort(
            [PrepareTask(scan, whole, choices, resume) for scan in scans],
            whole,
            version=__version__,
            raw=bids_dir,
            missing=found.left_out,
            subjects=None if participant_label is None else {p.removeprefix("sub-") for p in participant_label},
            engine=engine,
            progress_fn=reporter.step,
            announce_fn=reporter.say,
        )
    mine = {scan.name.stem for scan in scans} | {scan.name.stem for scan in share.of(found.left_out)}
    result = result.among(mine)
    done, kept = result.count("done"), result.count("kept")
    typer.echo(
        f"{done} scan{'' if done == 1 else 's'} prepared, {kept} kept, {len(result.left_out)} set aside or left out in "
        f"{result.seconds:.0f} s. Quality of each: {out / 'quality.tsv'}"
    )
    tell_left_out(result.left_out, out / "left_out.tsv")


def preparation_of(onto: str, extraction: str, *, channels: Collection[str]) -> "Preparation":
    """What the options ask for. Raises InputError, before any work, if it is not known, not there or not installed."""
    from lesionwise.prepare.extraction import check_installed
    from lesionwise.prepare.scan import Preparation

    choices = Preparation(onto=onto, extraction=extraction)
    if onto not in channels:
        raise InputError(f"Expected --onto to be one of the channels {', '.join(channels)}, found {onto}.")
    check_installed(extraction)
    return choices


def prepared_scan(scan: BidsScan, choices: "Preparation", out: Path, *, say: Callable[[str], None]) -> BidsScan:
    """The scan, prepared below `out`; the command ends with exit code 3 if a person must look at it first.

    Raises InputError if it cannot be prepared.
    """
    from lesionwise.prepare.unit import PrepareTask, prepare_cohort

    if scan.brain_mask is not None:
        raise InputError("Expected either --prepare or --brain-mask, found both: preparing finds the brain itself.")
    task = PrepareTask(scan, (out / INSIDE).resolve(), choices)
    (outcome,) = prepare_cohort([task], task.out, version=__version__, announce_fn=say).outcomes
    if outcome.status != "left_out":
        say(f"Prepared: {task.files.figure} shows how well.")
        return task.ready()
    if not task.is_set_aside():
        raise InputError(outcome.reason)
    images = " ".join(f"-i {channel}={path}" for channel, path in task.ready().images.items())
    typer.echo(f"lesionwise: {scan.name.stem} was {outcome.reason}", err=True)
    typer.echo(
        f"If the figure shows that it is right, explain it as it is: {images} --brain-mask {task.files.brain}", err=True
    )
    raise typer.Exit(3)


def prepared_plan(plan: "StudyPlan", choices: "Preparation", *, engine: "AbstractEngine", resume: bool) -> "StudyPlan":
    """The plan with prepared scans in the place of the scanner's; those that cannot be used so are refused in it."""
    from lesionwise.prepare.unit import prepare_cohort

    tasks = _tasks(plan, choices, resume=resume)
    with reporting() as reporter:
        result = prepare_cohort(
            tasks,
            (plan.out / INSIDE).resolve(),
            version=__version__,
            raw=plan.bids_dir,
            subjects=plan.subjects,
            engine=engine,
            progress_fn=reporter.step,
            announce_fn=reporter.say,
        )
    pairs = list(zip(tasks, result.outcomes, strict=True))
    scans = tuple(task.scan if outcome.status == "left_out" else task.ready() for task, outcome in pairs)
    refused = {task.scan.name.stem: outcome.reason for task, outcome in pairs if outcome.status == "left_out"}
    return replace(plan, scans=scans, refused=refused)


def foreseen_plan(plan: "StudyPlan", choices: "Preparation", *, resume: bool) -> "tuple[StudyPlan, tuple[str, ...]]":
    """For a dry run: the plan as far as its scans are prepared already, and the stems of those that are not."""
    from lesionwise.cohort import is_finished

    scans, refused, raw = [], {}, []
    for task in _tasks(plan, choices, resume=resume):
        stem = task.scan.name.stem
        finished = resume and is_finished(task.unit)
        if not finished:
            raw.append(stem)
        elif task.is_set_aside():
            refused[stem] = task.set_aside_reason()
        scans.append(task.ready() if finished and stem not in refused else task.scan)
    return replace(plan, scans=tuple(scans), refused=refused), tuple(raw)


def _tasks(plan: "StudyPlan", choices: "Preparation", *, resume: bool) -> "list[PrepareTask]":
    from lesionwise.prepare.unit import PrepareTask

    return [PrepareTask(scan, (plan.out / INSIDE).resolve(), choices, resume) for scan in plan.scans]
