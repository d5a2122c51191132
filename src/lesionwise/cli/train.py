"""`lesionwise train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.errors import InputError
from lesionwise.io.bids import read_filters
from lesionwise.io.files import check_output
from lesionwise.io.masks import ReferenceRule

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def train(
    bids_dir: Annotated[
        list[Path], typer.Argument(help="BIDS data set with lesion masks in its derivatives; several may be given.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run; --model takes it afterwards.")],
    network: Annotated[str, typer.Option("--network", help="unet, dynunet or swinunetr.")] = "unet",
    channels: Annotated[str, typer.Option("--channels", help="Inputs, in order.")] = "FLAIR,T1w",
    size: Annotated[
        str,
        typer.Option(
            "--size", help="published, compact (the built-in model's), small (for CPUs) or tiny (to try out)."
        ),
    ] = "published",
    recipe: Annotated[
        str,
        typer.Option("--recipe", help="published (the paper's), or small-data: wide augmentation, averaged weights."),
    ] = "published",
    start: Annotated[
        str, typer.Option("--from", help="Model or run to start from: builtin-synthetic, a run, any --model.")
    ] = "",
    mix: Annotated[
        str | None,
        typer.Option("--mix", help="DIR:SHARE, a second data set (synthetic patients) in a share of patches."),
    ] = None,
    patch: Annotated[int, typer.Option("--patch", help="Side of a patch and of the window, in voxels.")] = 96,
    spacing: Annotated[str, typer.Option("--spacing", help="Voxel size in mm to train at, or scan.")] = "1.0",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Most epochs.")] = 300,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps per epoch.")] = 100,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Patches per step.")] = 2,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of AdamW, at the start.")] = 1e-3,
    patience: Annotated[int, typer.Option("--patience", min=1, help="Validations without gain before stopping.")] = 20,
    validate_every: Annotated[int, typer.Option("--validate-every", min=1, help="Epochs between validations.")] = 5,
    folds: Annotated[int, typer.Option("--folds", min=1, help="Folds of patients (1: a share is held out).")] = 1,
    fold: Annotated[str, typer.Option("--fold", help="The fold to validate on, or all: one training per fold.")] = "0",
    validation: Annotated[
        float, typer.Option("--validation", help="Share of patients held out without folds; 0 trains on all.")
    ] = 0.2,
    precision: Annotated[str, typer.Option("--precision", help="auto, 32-true, 16-mixed or bf16-mixed.")] = "auto",
    participant_label: o.ParticipantLabel = None,
    bids_filter: o.BidsFilter = None,
    reference_from: o.ReferenceFrom = None,
    reference_label: o.ReferenceLabel = None,
    reference_threshold: o.ReferenceThreshold = None,
    export: Annotated[
        str | None, typer.Option("--export", help="nnunet: only write nnU-Net's raw format to OUT.")
    ] = None,
    dataset: Annotated[int, typer.Option("--dataset", help="Number of the exported nnU-Net data set.")] = 1,
    device: o.Device = "auto",
    devices: Annotated[str, typer.Option("--devices", help="Number of GPUs, or auto for all.")] = "auto",
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse a data set with a scan that cannot be used, instead of leaving it out."),
    ] = False,
    seed: o.Seed = 0,
) -> None:
    """Train one of the paper's networks. The same command goes on where an interrupted run stopped."""
    check_output(out)
    names = tuple(name.strip() for name in channels.split(",") if name.strip())
    chosen_by: dict[str, Any] = {
        "filters": None if bids_filter is None else read_filters(bids_filter, channels=names),
        "reference_from": reference_from,
        "reference_rule": ReferenceRule.read(reference_label, reference_threshold),
    }
    with reporting() as reporter:
        if export is not None:
            if export != "nnunet":
                raise InputError(f"Expected --export nnunet, found {export!r}.")
            from lesionwise.train.nnunet_export import export_nnunet

            if len(bids_dir) != 1:
                raise InputError(f"Expected one data set with --export, found {len(bids_dir)}.")
            folder = export_nnunet(
                bids_dir[0],
                out,
                number=dataset,
                channels=names,
                participants=participant_label,
                **chosen_by,
                progress_fn=reporter.step,
            )
            typer.echo(f"nnU-Net data set: {folder}")
            return
        from lesionwise.train.folds import train_folds
        from lesionwise.train.recipe import Recipe
        from lesionwise.train.run import train as run

        mix_dir, share = _mix(mix)
        chosen = Recipe.named(
            recipe,
            network,
            channels=names,
            size=size,
            patch=(patch, patch, patch),
            spacing_mm=_spacing(spacing),
            epochs=epochs,
            steps=steps,
            batch=batch,
            learning_rate=learning_rate,
            patience=patience,
            validate_every=validate_every,
            folds=folds,
            fold=0 if fold == "all" else _whole("--fold", fold),
            validation=validation,
            precision=o.one_of("--precision", precision, ("auto", "32-true", "16-mixed", "bf16-mixed")),
            seed=seed,
            mix=share,
            start=start,
        )
        trained = (train_folds if fold == "all" else run)(
            bids_dir,
            out,
            chosen,
            participants=participant_label,
            **chosen_by,
            mix_dir=mix_dir,
            strict=strict,
            device=device,
            devices=int(devices) if devices.isdigit() else "auto",
            progress_fn=reporter.step,
        )
    runs = trained if isinstance(trained, list) else [trained]
    left_out = {name: reason for done in runs for name, reason in done.left_out.items()}
    for name, reason in sorted(left_out.items()):
        typer.echo(f"Left out: {name}: {reason}", err=True)
    for done in runs:
        state = "finished" if done.finished else "not finished"
        judged = (
            f"validation nDSC {done.val_ndsc:.3f} at threshold {done.threshold:g}"
            if done.val_ndsc >= 0
            else "no validation"
        )
        typer.echo(f"{network}: {done.epochs} epochs, {state}; {judged}. Model: {done.folder}")
    if left_out:
        raise typer.Exit(3)


def _mix(text: str | None) -> tuple[Path | None, float]:
    if text is None:
        return None, 0.0
    folder, _, share = text.rpartition(":")
    try:
        value = float(share)
    except ValueError as error:
        raise InputError(f"Expected --mix as DIR:SHARE, such as phantoms:0.3, found {text!r}.") from error
    if not folder or not 0 < value < 1:
        raise InputError(f"Expected --mix as DIR:SHARE with a share between 0 and 1, found {text!r}.")
    return Path(folder), value


def _whole(option: str, text: str) -> int:
    if not text.isdigit():
        raise InputError(f"Expected {option} to be a whole number or all, found {text!r}.")
    return int(text)


def _spacing(text: str) -> float | None:
    if text == "scan":
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"Expected --spacing to be a voxel size in mm or scan, found {text!r}.") from error
    if not value > 0:
        raise InputError(f"Expected --spacing to be above 0, found {text}.")
    return value
