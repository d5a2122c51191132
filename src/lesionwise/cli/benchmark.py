"""`lesionwise benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise import __version__
from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.cli.spread import Spread, tell_left_out

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def benchmark(
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="What is judged (everything): a method's name, a family (registry, captum, monai, published), or your own "
            "as module:Name, which is imported and so runs; give it again for each.",
        ),
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="A planted rule (all); give it again for each.")
    ] = None,
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="New synthetic patients per rule.")] = 8,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Noise samples or steps of every method.")] = 8,
    measures: Annotated[
        bool, typer.Option("--measures/--no-measures", help="Judge the measures of `experiment faithfulness`, too.")
    ] = True,
    seed: o.Seed = 0,
    resume: o.Resume = True,
    shard: o.Shard = "1/1",
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
) -> None:
    """Judge attribution methods where the right map is known: networks with planted rules, verified lesion by lesion.

    Exit code 3: some patients were left out, with the reasons in OUT/left_out.tsv.
    """
    from lesionwise.benchmark.networks import shipped
    from lesionwise.benchmark.run import BenchmarkPlan, run_benchmark
    from lesionwise.cohort import CohortRunner, Shard
    from lesionwise.io.files import check_output

    check_output(out)
    plan = BenchmarkPlan(tuple(method or ()), tuple(rule or shipped()), subjects, seed, samples, measures)
    with reporting() as reporter:
        engine = Spread(workers, scheduler).engine("cpu", sees=[], writes=out)
        runner = CohortRunner(engine, Shard.parse(shard), resume, reporter.step, reporter.say)
        found = run_benchmark(plan, out, version=__version__, runner=runner)
    if found is None:
        typer.echo(f"Share {shard} is computed; the same command without --shard makes the tables.")
    else:
        typer.echo(found.text)
        typer.echo(f"Tables and figure: {out}")
    tell_left_out(sorted(runner.left_out.items()), out / "left_out.tsv")
