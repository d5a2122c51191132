"""`lesionwise explain`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesionwise import __version__
from lesionwise.api import Result, resolve_device
from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.config import write_config
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import BidsScan
from lesionwise.io.cases import guess_name, read_scan_case
from lesionwise.io.files import check_output
from lesionwise.io.masks import ReferenceRule
from lesionwise.models.zoo import load_model
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.units import Explained, explain_case

if TYPE_CHECKING:
    import pandas as pd

    from lesionwise.triage.model import TriageModel

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@o.with_choices()
def explain(
    *,
    image: Annotated[
        list[str] | None, typer.Option("-i", "--image", help="CHANNEL=FILE, once per channel: -i FLAIR=flair.nii.gz")
    ] = None,
    dicom: o.Dicom = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")],
    reference: Annotated[Path | None, typer.Option("--reference", help="Reference lesion mask.")] = None,
    reference_label: o.ReferenceLabel = None,
    reference_threshold: o.ReferenceThreshold = None,
    brain_mask: Annotated[Path | None, typer.Option("--brain-mask", help="Brain mask, for heads with skull.")] = None,
    resample: o.Resample = False,
    prepare: o.Prepare = False,
    brain_extraction: o.BrainExtraction = "deepbet",
    onto: o.Onto = "FLAIR",
    subject: Annotated[
        str | None, typer.Option("--subject", help="Subject label (else from the file name, else 01).")
    ] = None,
    model: o.Model = "builtin",
    trust: o.Trust = False,
    choices: o.Choices,
    triage: o.Triage = None,
    why: o.Why = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
) -> None:
    """Explain the lesions of one scan: probability, instances, a signed map per lesion, a table and a report."""
    check_output(out)
    judge = None if triage is None else _judge(triage)
    with reporting() as reporter:
        reporter.say(f"Loading the model {model}.")
        segmenter = load_model(model, trust=trust, device=resolve_device(choices.device))
        settings = o.settings_of(segmenter, choices)
        if judge is not None:
            judge.check_channels(segmenter.spec.channels)
        rule = ReferenceRule.read(reference_label, reference_threshold)
        name = None if subject is None else ScanName(o.subject_of(subject))
        scan = scan_of(image, dicom, out, name=name, channels=segmenter.spec.channels)
        scan = replace(scan, reference=reference, reference_rule=rule, brain_mask=brain_mask)
        if prepare or dicom is not None:
            from lesionwise.cli.prepare import preparation_of, prepared_scan

            preparation = preparation_of(onto, brain_extraction, channels=scan.images)
            scan = prepared_scan(scan, preparation, out, say=reporter.say)
        case = read_scan_case(scan, resample=resample)
        explained = explain_case(
            segmenter,
            case,
            settings,
            out=out,
            progress_fn=reporter.step,
            announce_fn=reporter.say,
            version=__version__,
        )
        write_config(out, settings, explained.model, version=__version__)
        asked = None
        if why:
            from lesionwise.why.finished import explain_why

            asked = explain_why(explained, segmenter, out, progress_fn=reporter.step, say=reporter.say)
        if judge is not None:
            judge_scan(explained, judge, out, segmenter=segmenter, say=reporter.say, why=asked)
        if report:
            from lesionwise.report.page import write_scan_report

            reporter.say(f"Report: {write_scan_report(out, case.name, out / 'report.html')}")
    typer.echo(summary(Result(explained), out))


def _judge(name: str) -> "TriageModel":
    from lesionwise.triage.model import load_triage

    return load_triage(name)


def scan_of(
    image: Sequence[str] | None, dicom: Path | None, out: Path, *, name: ScanName | None, channels: Sequence[str]
) -> BidsScan:
    """The scan that the command line names: files per channel, or a folder of DICOM files, converted into OUT/sourcedata.

    Raises InputError unless exactly one of the two is given.
    """
    if (dicom is None) == (not image):
        raise InputError(
            "Expected either images (-i FLAIR=flair.nii.gz -i T1w=t1.nii.gz) or a folder of DICOM (--dicom)."
        )
    if dicom is None:
        images = o.images_of(image or ())
        return BidsScan(name or guess_name(next(iter(images.values()))), images)
    from lesionwise.prepare.dicom import convert_dicom

    name = name or ScanName()
    return BidsScan(name, convert_dicom(dicom, out / "sourcedata", name, channels=channels))


def judge_scan(
    explained: Explained,
    model: "TriageModel",
    out: Path,
    *,
    segmenter: AbstractSegmenter,
    say: Callable[[str], None],
    why: "pd.DataFrame | None" = None,
) -> None:
    """Applies a triage model to an explained scan (and its `why` table) and writes its verdicts beside the table."""
    from lesionwise.triage.apply import triage_scan, write_triage
    from lesionwise.triage.scan import TriageScan

    triaged = triage_scan(TriageScan.of(explained, why=why), model, segmenter=segmenter)
    write_triage(triaged, out, model=model)
    judged = int(triaged.lesions["triage_verdict"].notna().sum())
    say(f"Triage: {triaged.n_false} of {judged} judged lesions are probably false.")
    for note in triaged.notes:
        say(f"Triage: {note}")


def summary(result: Result, out: Path) -> str:
    """The last lines of a run: what was found and where it lies."""
    counts = ", ".join(f"{number} {outcome}" for outcome, number in result.counts.items()) or "no lesions"
    lines = [f"{len(result.lesions)} instances ({counts}), {len(result.maps)} explained. Results: {out}"]
    return "\n".join(lines)
