"""`lesionwise models`."""

from typing import Annotated

import typer

from lesionwise.cli import options as o

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List the models that can be asked for by name, the kinds of files and folders that are read, and their options."""
    from lesionwise.models import zoo

    for name, line in zoo.known():
        typer.echo(f"{name:<12} {line}")
    for kind in zoo.LOADERS:
        typer.echo(f"{'PATH':<12} {kind}")
    typer.echo("Options follow a ?, as in PATH?folds=0,1&mirroring=off:")
    for kind, known in zoo.formats():
        if known:
            typer.echo(kind)
        for name, words in known.items():
            typer.echo(f"  {name:<10} {words}")


@app.command()
def show(
    model: Annotated[
        str, typer.Argument(help="A shipped name, or a model's file or folder; ?option=value may follow.")
    ],
    trust: o.Trust = False,
    layers: Annotated[bool, typer.Option("--layers/--no-layers", help="Also list the layers for Grad-CAM++.")] = False,
) -> None:
    """Show what a model expects: channels, window, classes by name, preprocessing, and the options that may follow it."""
    from lesionwise.models.description import describe
    from lesionwise.models.zoo import load_model, options_of

    description = describe(load_model(model, trust=trust))
    for label, text in description.rows():
        typer.echo(f"{label:<14} {text}")
    for n, (name, words) in enumerate(options_of(model).items()):
        typer.echo(f"{'options' if n == 0 else '':<14} ?{name}= {words}")
    if not layers and description.layers:
        typer.echo(f"{'layers':<14} {len(description.layers)}, listed with --layers")
    if layers and description.layers:
        typer.echo("layers")
        for layer in description.layers:
            shape = " x ".join(str(n) for n in layer.output[1:])
            typer.echo(f"  {layer.name:<40} {layer.kind:<24} {shape}")
