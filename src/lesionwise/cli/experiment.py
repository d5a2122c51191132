"""`lesionwise experiment`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lesionwise.api import resolve_device
from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.errors import InputError
from lesionwise.experiments.networks import run_networks
from lesionwise.experiments.registry import EXPERIMENTS
from lesionwise.experiments.run import FOLDER, run_experiment
from lesionwise.geometry.volume import Case
from lesionwise.io.bids import BidsScan, find_scans
from lesionwise.io.cases import read_case
from lesionwise.io.files import check_output
from lesionwise.models.zoo import load_models

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
@o.with_choices(without=("tolerance", "approximate", "snr"), controls=10)  # one fixed number of samples
def experiment(
    *,
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set with reference masks.")],
    out: Annotated[Path, typer.Argument(help="Output folder; finished scans there are read back.")],
    participant_label: Annotated[
        list[str] | None, typer.Option("--participant-label", help="Subjects, with or without sub- (all).")
    ] = None,
    reference_from: o.ReferenceFrom = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the experiment; see docs/experiments.md.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Keep the rows of finished scans.")] = True,
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
    models = load_models(model or ["builtin"], names=name_of, trust=trust, device=resolve_device(choices.device))
    settings = {key: o.settings_of(segmenter, choices) for key, segmenter in models.items()}
    channels = list(dict.fromkeys(channel for segmenter in models.values() for channel in segmenter.spec.channels))
    found = find_scans(bids_dir, channels=channels, participants=participant_label, reference_from=reference_from)
    usable = [scan for scan in found.scans if scan.reference is not None]
    left_out = [f"{one.name.stem}: {one.reason}" for one in found.left_out]
    left_out += [f"{scan.name.stem}: no reference mask" for scan in found.scans if scan.reference is None]
    if not usable:
        raise InputError(f"Expected scans with a reference mask in {bids_dir}, found none.")
    with reporting() as reporter:
        for line in left_out:
            reporter.say(f"Left out - {line}")
        cases = [partial(_read, scan) for scan in usable]
        values: dict[str, Any] = {"options": _values(option or []), "resume": resume, "announce_fn": reporter.say}
        if len(models) == 1:
            ((key, segmenter),) = models.items()
            finding = run_experiment(name, segmenter, cases, out, settings=settings[key], **values)
        else:
            finding = run_networks(name, models, cases, out, settings=settings, **values)
    typer.echo(finding.text)
    typer.echo(f"Tables and figures: {out / FOLDER / name}")
    if left_out:
        raise typer.Exit(3)


def _read(scan: BidsScan) -> Case:
    return read_case(scan.images, reference=scan.reference, name=scan.name)


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
