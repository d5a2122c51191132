"""`lesionwise phantom`."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise.cli.console import reporting
from lesionwise.io.files import check_output
from lesionwise.phantom import write_phantoms

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def phantom(
    bids_dir: Annotated[Path, typer.Argument(help="Folder of the new BIDS data set.")],
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="Patients to draw.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal patients.")] = 0,
    size: Annotated[str, typer.Option("--size", help="full, or small for a 64 mm block.")] = "full",
    wide: Annotated[
        bool, typer.Option("--wide", help="Contrasts wider than in practice, to train networks on.")
    ] = False,
) -> None:
    """Write synthetic patients (FLAIR, T1w, lesion masks, tissue labels) as a BIDS data set."""
    check_output(bids_dir)
    with reporting() as reporter:
        write_phantoms(
            bids_dir,
            subjects=subjects,
            seed=seed,
            size=size,
            wide=wide,
            progress_fn=lambda done, total: reporter.step("patients", done, total),
        )
    typer.echo(f"{subjects} synthetic patient{'s' if subjects != 1 else ''}: {bids_dir}")
