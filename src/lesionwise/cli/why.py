"""`lesionwise why`."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from lesionwise.api import resolve_device
from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.errors import InputError
from lesionwise.io.derivative import ScanFiles, list_scans
from lesionwise.models.zoo import load_model

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def why(
    out: Annotated[Path, typer.Argument(help="Output folder of explain or study.")],
    lesions: Annotated[str, typer.Option("--lesions", help="all, largest:5, drawn:9, or numbers such as 1,4.")] = "all",
    evaluations: Annotated[
        int, typer.Option("--evaluations", min=0, help="Coalitions of the anatomical Shapley values (0: none).")
    ] = 128,
    fills: Annotated[
        int, typer.Option("--fills", min=1, max=3, help="Ways to take a part away; more than one tells the spread.")
    ] = 1,
    stability: Annotated[
        int,
        typer.Option(
            "--stability",
            min=0,
            help="Noise draws of every map with which other networks, the mirror image and other noise are asked (0: not asked).",
        ),
    ] = 0,
    model: o.Model = "builtin",
    trust: o.Trust = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the scan's report again.")] = True,
) -> None:
    """Say what would have changed the network's mind about each lesion: margins, surroundings, anatomical Shapley."""
    from lesionwise.why.anatomy import FILLS
    from lesionwise.why.finished import finished_scan, write_why
    from lesionwise.why.lesions import Effort, why_scan

    names = list_scans(out)
    if not names:
        raise InputError(f"Expected finished scans in {out}, found none: run explain or study first.")
    where = resolve_device(device)
    segmenter = load_model(model, trust=trust, device=where)
    effort = Effort(evaluations, FILLS[:fills], stability)
    with reporting() as reporter:
        for name in names:
            scan = finished_scan(out, name, segmenter, lesions=lesions, device=where)
            table = why_scan(scan, effort=effort, progress_fn=reporter.step, say=reporter.say)
            write_why(ScanFiles(out, name), table, scan)
            if report and len(names) == 1:
                from lesionwise.report.page import write_scan_report

                reporter.say(f"Report: {write_scan_report(out, name, out / 'report.html')}")
            typer.echo(summary(name.stem, table))


def summary(scan: str, table: pd.DataFrame) -> str:
    """One line about a scan's lesions."""
    flips, verified = (int(table[name].sum()) if len(table) else 0 for name in ("why_flips", "why_verified"))
    return f"{scan}: {len(table)} lesions, {flips} flips of the decision found, {verified} of them hold."
