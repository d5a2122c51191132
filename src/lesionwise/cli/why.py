"""`lesionwise why`."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.cli.spread import Spread, tell_left_out

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
    resume: o.Resume = True,
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    model: o.Model = "builtin",
    trust: o.Trust = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the scan's report again.")] = True,
) -> None:
    """Say what would have changed the network's mind about each lesion: margins, surroundings, anatomical Shapley.

    Lesions are shared out over --workers and kept as they are finished. Exit code 3: some scans were left out, with the reasons.
    """
    from lesionwise import __version__
    from lesionwise.cohort import CohortRunner
    from lesionwise.models.reference import ModelRef
    from lesionwise.why.anatomy import FILLS
    from lesionwise.why.lesions import Effort
    from lesionwise.why.run import WhyPlan, run_why

    spread = Spread(workers, scheduler)
    where = spread.device(device)
    effort = Effort(evaluations, FILLS[:fills], stability)
    with reporting() as reporter:
        plan = WhyPlan(out.resolve(), ModelRef.of(model, trust=trust), lesions, effort, where)
        engine = spread.engine(where, sees=[out], writes=out)
        runner = CohortRunner(engine, resume=resume, progress_fn=reporter.step, announce_fn=reporter.say)
        found = run_why(plan, runner=runner, version=__version__, say=reporter.say)
        for name, table in found.items():
            if report and len(found) == 1:
                from lesionwise.report.page import write_scan_report

                reporter.say(f"Report: {write_scan_report(out, name, out / 'report.html')}")
            typer.echo(summary(name.stem, table))
    tell_left_out(sorted(runner.left_out.items()))


def summary(scan: str, table: pd.DataFrame) -> str:
    """One line about a scan's lesions."""
    flips, verified = (int(table[name].sum()) if len(table) else 0 for name in ("why_flips", "why_verified"))
    return f"{scan}: {len(table)} lesions, {flips} flips of the decision found, {verified} of them hold."
