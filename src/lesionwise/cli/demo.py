"""`lesionwise demo`: a synthetic patient, the built-in model, a report."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise import __version__
from lesionwise.api import Result
from lesionwise.attribution.methods.gradient import SmoothGrad
from lesionwise.cli.console import reporting
from lesionwise.cli.explain import judge_scan
from lesionwise.config import write_config
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_scan_case
from lesionwise.io.files import check_output
from lesionwise.models.zoo import load_model
from lesionwise.phantom import write_phantoms
from lesionwise.report.page import write_scan_report
from lesionwise.triage.model import load_triage
from lesionwise.units import Settings, explain_case

app = typer.Typer(add_completion=False, rich_markup_mode=None)

SEED = 4
LESIONS = 20
"""The demo's patient, and how many lesions are drawn into it."""

CONTROLS = 2
"""Regions of healthy white matter explained beside them: what a lesion's effect is to be compared with."""


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Output folder.")] = Path("demo-output"),
    samples: Annotated[int, typer.Option("--samples", min=2, help="Noise samples per lesion.")] = 8,
    lesions: Annotated[
        str, typer.Option("--lesions", help="all, numbers such as 1,4, largest:5, or drawn:9 (over outcomes).")
    ] = "all",
    size: Annotated[str, typer.Option("--size", help="full, or small for a quick look.")] = "full",
) -> None:
    """Explain a synthetic patient with the built-in model: no data, no network, no GPU needed."""
    check_output(out)
    settings = Settings(method=SmoothGrad(n_samples=samples), lesions=lesions, controls=CONTROLS, snr=True)
    with reporting() as reporter:
        reporter.say("Drawing a synthetic patient (no real person) from the MNI152 templates.")
        write_phantoms(out / "bids", subjects=1, seed=SEED, size=size, n_lesions=LESIONS)
        reporter.say("Loading the built-in model.")
        model, judge = load_model("builtin"), load_triage("builtin")
        scan = find_scans(out / "bids", channels=model.spec.channels).scans[0]
        case = read_scan_case(scan)
        explained = explain_case(
            model,
            case,
            settings,
            out=out / "derivatives",
            progress_fn=reporter.step,
            announce_fn=reporter.say,
            version=__version__,
        )
        judge_scan(explained, judge, out / "derivatives", segmenter=model, say=reporter.say)
        write_config(out / "derivatives", settings, explained.model, version=__version__)
        page = write_scan_report(out / "derivatives", case.name, out / "derivatives" / "report.html")
    result = Result(explained)
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(result.counts.items()))
    typer.echo(f"The built-in model on a synthetic patient: {counts}; {len(result.maps)} lesions explained.")
    typer.echo(f"Open the report: {page}")
