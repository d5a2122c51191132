"""`lesionwise figure`."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise.errors import InputError
from lesionwise.io.derivative import list_scans, read_scan
from lesionwise.report.figures import lesion_figure

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def figure(
    out: Annotated[Path, typer.Argument(help="Output folder of explain, study or demo.")],
    lesion: Annotated[int, typer.Option("--lesion", help="Lesion number.")],
    scan: Annotated[
        str | None, typer.Option("--scan", help="Which scan, such as sub-01_ses-2, if there are several.")
    ] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Picture to write (.png, .pdf, .svg).")] = None,
) -> None:
    """Draw one lesion as a publication-ready panel."""
    names = {name.stem: name for name in list_scans(out)}
    if not names:
        raise InputError(f"Expected finished scans in {out}, found none.")
    if scan is None and len(names) > 1:
        raise InputError(f"Expected --scan, as {out} holds several scans: {', '.join(sorted(names)[:6])}.")
    chosen = next(iter(names)) if scan is None else scan
    if chosen not in names:
        raise InputError(f"Expected --scan to be one of {', '.join(sorted(names)[:6])}, found {chosen}.")
    path = file or out / "figures" / f"{chosen}_lesion-{lesion:03d}.png"
    lesion_figure(read_scan(out, names[chosen]), lesion, path)
    typer.echo(str(path))
