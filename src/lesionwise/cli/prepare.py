"""`lesionwise prepare`, and `--prepare` of explain and study."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesionwise import __version__
from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.cli.spread import Spread, tell_left_out
from lesionwise.cli.study import BidsAppCommand
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import BidsScan, LeftOut, find_scans, read_filters
from lesionwise.io.files import check_output

if TYPE_CHECKING:
    from lesionwise.cohort.engines import AbstractEngine
    from lesionwise.prepare.scan import Preparation
    from lesionwise.study.plan import StudyPlan

INSIDE = Path("derivatives", "prepare")
"""Where explain and study keep prepared scans, below their own output folder."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=BidsAppCommand)
def prepare(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set of the scanner's files (with --dicom: made here).")],
    out: Annotated[Path, typer.Argument(help="Output folder: a BIDS derivative.")],
    participant_label: Annotated[
        list[str] | None,
        typer.Option("--participant-label", "--participant_label", help="Subjects, with or without sub- (all)."),
    ] = None,
    session_label: Annotated[
        list[str] | None,
        typer.Option("--session-label", "--session_label", help="Sessions, with or without ses- (all)."),
    ] = None,
    channel: Annotated[
        list[str] | None, typer.Option("--channel", help="Channels that a scan must have (FLAIR and T1w).")
    ] = None,
    onto: o.Onto = "FLAIR",
    brain_extraction: o.BrainExtraction = "deepbet",
    bids_filter: Annotated[
        Path | None,
        typer.Option("--bids-filter", "--bids-filter-file", help="JSON file of entities that images must have."),
    ] = None,
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
    choices = preparation_of(onto, brain_extraction)
    if bids_dir.resolve() == out.resolve():
        raise InputError(f"Expected OUT to be another folder than the data set, found {out} for both.")
    channels = tuple(channel or ("FLAIR", "T1w"))
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
    scans = Shard.parse(shard).of(found.scans)
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
    done, kept = result.count("done"), result.count("kept")
    typer.echo(
        f"{done} scan{'' if done == 1 else 's'} prepared, {kept} kept, {len(result.left_out)} set aside or left out in "
        f"{result.seconds:.0f} s. Quality of each: {out / 'quality.tsv'}"
    )
    tell_left_out(result.left_out, out / "left_out.tsv")


def preparation_of(onto: str, extraction: str) -> "Preparation":
    """What the options ask for. Raises InputError, before any work, if it is not known or not installed."""
    from lesionwise.prepare.extraction import check_installed
    from lesionwise.prepare.scan import Preparation

    choices = Preparation(onto=onto, extraction=extraction)
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
    """The plan with prepared scans in the place of the scanner's; those set aside are left out of it."""
    from lesionwise.prepare.unit import PrepareTask, prepare_cohort

    out = (plan.out / INSIDE).resolve()
    tasks = [PrepareTask(replace(scan, brain_mask=None), out, choices, resume) for scan in plan.scans]
    with reporting() as reporter:
        result = prepare_cohort(
            tasks,
            out,
            version=__version__,
            raw=plan.bids_dir,
            engine=engine,
            progress_fn=reporter.step,
            announce_fn=reporter.say,
        )
    pairs = list(zip(tasks, result.outcomes, strict=True))
    ready = tuple(task.ready() for task, outcome in pairs if outcome.status != "left_out")
    aside = tuple(LeftOut(task.scan.name, outcome.reason) for task, outcome in pairs if outcome.status == "left_out")
    return replace(plan, scans=ready, left_out=(*plan.left_out, *aside))
