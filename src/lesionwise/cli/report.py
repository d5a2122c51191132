"""`lesionwise report`."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise.cli.spread import tell_left_out
from lesionwise.errors import InputError
from lesionwise.io.derivative import list_scans
from lesionwise.report.writing import write_reports

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="Output folder of explain, study or demo.")],
    experiments: Annotated[
        Path | None,
        typer.Option("--experiments", help="Folder of the experiments that the cohort's page shows (OUT/experiments)."),
    ] = None,
) -> None:
    """Write the report of every finished scan, and of the cohort if there are several.

    Exit code 3: some scans were left out, because their files are damaged.
    """
    if experiments is not None and not experiments.is_dir():
        raise InputError(f"Expected --experiments to be a folder, found none at {experiments}.")
    left_out: dict[str, str] = {}
    pages = write_reports(out, experiments=experiments, left_out=left_out)
    count = len(list_scans(out)) - len(left_out)
    typer.echo(f"{count} scan{'s' if count != 1 else ''}. Report: {pages[-1]}")
    tell_left_out(sorted(left_out.items()))
