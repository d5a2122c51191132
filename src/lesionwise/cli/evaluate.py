"""`lesionwise evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.cli.spread import Spread, tell_left_out

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def evaluate(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set with lesion masks in its derivatives.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")],
    model: Annotated[list[str] | None, typer.Option("--model", help="A model; give it again for each model.")] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="What to call each model, in the same order.")
    ] = None,
    participant_label: o.ParticipantLabel = None,
    validation_label: Annotated[
        list[str] | None,
        typer.Option(
            "--validation-label", help="Choose thresholds on these patients, and leave them out of the table."
        ),
    ] = None,
    bids_filter: o.BidsFilter = None,
    reference_from: o.ReferenceFrom = None,
    reference_label: o.ReferenceLabel = None,
    reference_threshold: o.ReferenceThreshold = None,
    connectivity: o.Connectivity = 18,
    min_size: Annotated[int, typer.Option("--min-size", min=1, help="Smallest lesion in voxels.")] = 6,
    resume: o.Resume = True,
    shard: o.Shard = "1/1",
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    trust: o.Trust = False,
    device: o.Device = "auto",
    seed: o.Seed = 0,
) -> None:
    """Measure how well models segment a data set: the paper's table, with intervals and paired tests.

    Exit code 3: some scans were left out, with the reasons in OUT/left_out.tsv and below the table.
    """
    from lesionwise.cohort import CohortRunner, Shard
    from lesionwise.evaluation import evaluate as run
    from lesionwise.evaluation import markdown
    from lesionwise.io.bids import read_filters
    from lesionwise.io.files import check_output
    from lesionwise.io.masks import ReferenceRule
    from lesionwise.models.reference import opened, references

    check_output(out)
    spread, share = Spread(workers, scheduler), Shard.parse(shard)
    where = spread.device(device)
    models = references(model or ["builtin"], names=name, trust=trust)
    rule = ReferenceRule.read(reference_label, reference_threshold)
    channels = list(dict.fromkeys(channel for one in models.values() for channel in opened(one).spec.channels))
    with reporting() as reporter:
        engine = spread.engine(where, sees=[bids_dir], writes=out)
        runner = CohortRunner(engine, share, resume, reporter.step, reporter.say)
        result = run(
            models,
            bids_dir,
            out.resolve(),
            participants=participant_label,
            validation=validation_label or (),
            filters=None if bids_filter is None else read_filters(bids_filter, channels=channels),
            reference_from=reference_from,
            reference_rule=rule,
            connectivity=connectivity,
            min_voxels=min_size,
            seed=seed,
            device=where,
            runner=runner,
        )
    if result is None:
        typer.echo(f"Share {shard} is computed; the same command without --shard makes the tables.")
    else:
        typer.echo(markdown(result).split("\n## ")[0].rstrip())
        typer.echo(f"Tables: {out}")
    tell_left_out(sorted(runner.left_out.items()), out / "left_out.tsv")
