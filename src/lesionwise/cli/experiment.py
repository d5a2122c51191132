"""`lesionwise experiment`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.cli.spread import Spread, tell_left_out
from lesionwise.cohort import CohortRunner, Shard
from lesionwise.errors import InputError
from lesionwise.experiments.networks import run_networks
from lesionwise.experiments.registry import EXPERIMENTS
from lesionwise.experiments.run import FOLDER, run_experiment
from lesionwise.io.bids import LeftOut, find_scans, read_filters
from lesionwise.io.files import check_output
from lesionwise.io.masks import ReferenceRule
from lesionwise.models.reference import references

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@o.with_choices(without=("tolerance", "approximate", "snr"), controls=10)  # one fixed number of samples
def experiment(
    *,
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set with reference masks.")],
    out: Annotated[Path, typer.Argument(help="Output folder; finished scans there are read back.")],
    participant_label: o.ParticipantLabel = None,
    bids_filter: o.BidsFilter = None,
    reference_from: o.ReferenceFrom = None,
    reference_label: o.ReferenceLabel = None,
    reference_threshold: o.ReferenceThreshold = None,
    resample: o.Resample = False,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the experiment; see docs/experiments.md.")
    ] = None,
    resume: o.Resume = True,
    shard: o.Shard = "1/1",
    workers: o.Workers = None,
    scheduler: o.Scheduler = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model (builtin); give it again to hold several side by side.")
    ] = None,
    name_of: Annotated[
        list[str] | None, typer.Option("--name", help="What to call each model, in the same order.")
    ] = None,
    trust: o.Trust = False,
    choices: o.Choices,
) -> None:
    """Run one of the published experiments on a data set: rows, figures, and a finding in plain words.

    With several models each has its own folder in OUT, and OUT/experiments/NAME holds them side by side.
    Exit code 3: some scans were left out.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"Expected an experiment ({', '.join(EXPERIMENTS)}), found {name!r}.")
    check_output(out)
    spread, share = Spread(workers, scheduler), Shard.parse(shard)
    device = spread.device(choices.device)
    models = references(model or ["builtin"], names=name_of, trust=trust)
    specs = {key: one.load().spec for key, one in models.items()}
    settings = {key: o.settings_of(one.load(), replace(choices, device=device)) for key, one in models.items()}
    channels = list(dict.fromkeys(channel for spec in specs.values() for channel in spec.channels))
    found = find_scans(
        bids_dir,
        channels=channels,
        participants=participant_label,
        filters=None if bids_filter is None else read_filters(bids_filter, channels=channels),
        reference_from=reference_from,
        reference_rule=ReferenceRule.read(reference_label, reference_threshold),
    )
    usable = [scan for scan in found.scans if scan.reference is not None]
    missing = [*found.left_out]
    missing += [LeftOut(scan.name, "no reference mask") for scan in found.scans if scan.reference is None]
    if not usable:
        raise InputError(f"Expected scans with a reference mask in {bids_dir}, found none.")
    with reporting() as reporter:
        engine = spread.engine(device, sees=[bids_dir], writes=out)
        runner = CohortRunner(engine, share, resume, reporter.step, reporter.say)
        values: dict[str, Any] = {
            "options": _values(option or []),
            "runner": runner,
            "missing": missing,
            "resample": resample,
        }
        if len(models) == 1:
            ((key, only),) = models.items()
            finding = run_experiment(name, only, usable, out.resolve(), settings=settings[key], **values)
        else:
            finding = run_networks(name, models, usable, out.resolve(), settings=settings, **values)
    typer.echo(finding.text)
    typer.echo(f"Tables and figures: {out / FOLDER / name}")
    tell_left_out(sorted(runner.left_out.items()), out / FOLDER / name / "left_out.tsv")


def _values(pairs: list[str]) -> dict[str, object]:
    """`NAME=VALUE` as whole number, number, yes/no or text, whichever fits first."""
    values: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"Expected --option NAME=VALUE, found {pair!r}.")
        values[name] = _value(text)
    return values


def _value(text: str) -> object:
    if text.lower() in ("true", "yes", "false", "no"):
        return text.lower() in ("true", "yes")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
