"""`lesionwise report`."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise.io.derivative import list_scans
from lesionwise.report.page import write_reports

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def report(out: Annotated[Path, typer.Argument(help="Output folder of explain, study or demo.")]) -> None:
    """Write the report of every finished scan, and of the cohort if there are several."""
    pages = write_reports(out)
    typer.echo(f"{len(list_scans(out))} scans. Report: {pages[-1]}")
