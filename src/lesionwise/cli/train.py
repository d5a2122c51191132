"""`lesionwise train`."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise.cli import options as o
from lesionwise.cli.console import reporting
from lesionwise.errors import InputError
from lesionwise.io.files import check_output

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def train(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS data set with lesion masks in its derivatives.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run; --model takes it afterwards.")],
    network: Annotated[str, typer.Option("--network", help="unet, dynunet or swinunetr.")] = "unet",
    channels: Annotated[str, typer.Option("--channels", help="Inputs, in order.")] = "FLAIR,T1w",
    size: Annotated[
        str, typer.Option("--size", help="published, small (for CPUs) or tiny (for trying out).")
    ] = "published",
    patch: Annotated[int, typer.Option("--patch", help="Side of a patch and of the window, in voxels.")] = 96,
    spacing: Annotated[str, typer.Option("--spacing", help="Voxel size in mm to train at, or scan.")] = "1.0",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Most epochs.")] = 300,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps per epoch.")] = 100,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Patches per step.")] = 2,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of AdamW, at the start.")] = 1e-3,
    patience: Annotated[int, typer.Option("--patience", min=1, help="Validations without gain before stopping.")] = 20,
    validate_every: Annotated[int, typer.Option("--validate-every", min=1, help="Epochs between validations.")] = 5,
    folds: Annotated[int, typer.Option("--folds", min=1, help="Folds of patients (1: a share is held out).")] = 1,
    fold: Annotated[int, typer.Option("--fold", min=0, help="The fold to validate on.")] = 0,
    validation: Annotated[float, typer.Option("--validation", help="Share of patients held out without folds.")] = 0.2,
    precision: Annotated[str, typer.Option("--precision", help="auto, 32-true, 16-mixed or bf16-mixed.")] = "auto",
    participant_label: Annotated[
        list[str] | None, typer.Option("--participant-label", help="Only these patients; may be given often.")
    ] = None,
    export: Annotated[
        str | None, typer.Option("--export", help="nnunet: only write nnU-Net's raw format to OUT.")
    ] = None,
    dataset: Annotated[int, typer.Option("--dataset", help="Number of the exported nnU-Net data set.")] = 1,
    device: o.Device = "auto",
    devices: Annotated[str, typer.Option("--devices", help="Number of GPUs, or auto for all.")] = "auto",
    seed: o.Seed = 0,
) -> None:
    """Train one of the paper's networks. The same command goes on where an interrupted run stopped."""
    check_output(out)
    names = tuple(name.strip() for name in channels.split(",") if name.strip())
    with reporting() as reporter:
        if export is not None:
            if export != "nnunet":
                raise InputError(f"Expected --export nnunet, found {export!r}.")
            from lesionwise.train.nnunet_export import export_nnunet

            folder = export_nnunet(
                bids_dir, out, number=dataset, channels=names, participants=participant_label, progress_fn=reporter.step
            )
            typer.echo(f"nnU-Net data set: {folder}")
            return
        from lesionwise.train.recipe import Recipe
        from lesionwise.train.run import train as run

        recipe = Recipe(
            network=network,
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
            fold=fold,
            validation=validation,
            precision=o.one_of("--precision", precision, ("auto", "32-true", "16-mixed", "bf16-mixed")),
            seed=seed,
        )
        trained = run(
            bids_dir,
            out,
            recipe,
            participants=participant_label,
            device=device,
            devices=int(devices) if devices.isdigit() else "auto",
            progress_fn=reporter.step,
        )
    state = "finished" if trained.finished else "not finished"
    typer.echo(
        f"{network}: {trained.epochs} epochs, {state}; validation nDSC {trained.val_ndsc:.3f} at threshold "
        f"{trained.threshold:g}. Model: {trained.folder}"
    )


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
