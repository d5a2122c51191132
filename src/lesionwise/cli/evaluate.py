"""`lesionwise evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise.cli import options as o
from lesionwise.cli.console import reporting

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def evaluate(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set with lesion masks in its derivatives.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")],
    model: Annotated[list[str] | None, typer.Option("--model", help="A model; give it again for each model.")] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="What to call each model, in the same order.")
    ] = None,
    participant_label: Annotated[
        list[str] | None, typer.Option("--participant-label", help="Judge by these patients only; may be given often.")
    ] = None,
    validation_label: Annotated[
        list[str] | None,
        typer.Option(
            "--validation-label", help="Choose thresholds on these patients, and leave them out of the table."
        ),
    ] = None,
    connectivity: o.Connectivity = 18,
    min_size: Annotated[int, typer.Option("--min-size", min=1, help="Smallest lesion in voxels.")] = 6,
    trust: o.Trust = False,
    device: o.Device = "auto",
    seed: o.Seed = 0,
) -> None:
    """Measure how well models segment a data set: the paper's table, with intervals and paired tests."""
    from lesionwise.evaluation import evaluate as run
    from lesionwise.evaluation import markdown
    from lesionwise.io.files import check_output
    from lesionwise.models.zoo import load_models

    check_output(out)
    models = load_models(model or ["builtin"], names=name, trust=trust, device=device)
    with reporting() as reporter:
        result = run(
            models,
            bids_dir,
            out,
            participants=participant_label,
            validation=validation_label or (),
            connectivity=connectivity,
            min_voxels=min_size,
            seed=seed,
            progress_fn=reporter.step,
        )
    typer.echo(markdown(result).split("\n## ")[0].rstrip())
    typer.echo(f"Tables: {out}")
