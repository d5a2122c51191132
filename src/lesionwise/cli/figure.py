"""`lesionwise figure`."""

from pathlib import Path
from typing import Annotated

import typer

from lesionwise.errors import InputError
from lesionwise.io.derivative import list_scans
from lesionwise.io.written import read_sound_scan
from lesionwise.report.figures import lesion_figure
from lesionwise.report.viewers import write_viewers

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def figure(
    out: Annotated[Path, typer.Argument(help="Output folder of explain, study or demo.")],
    lesion: Annotated[int, typer.Option("--lesion", help="Lesion number.")],
    scan: Annotated[
        str | None, typer.Option("--scan", help="Which scan, such as sub-01_ses-2, if there are several.")
    ] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Picture to write (.png, .pdf, .svg).")] = None,
    viewers: Annotated[
        Path | None,
        typer.Option(
            "--viewers", help="Also write a NiiVue document and recipes for 3D Slicer, FSLeyes, ITK-SNAP here."
        ),
    ] = None,
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
    found = read_sound_scan(out, names[chosen])
    lesion_figure(found, lesion, path)
    typer.echo(str(path))
    if viewers is not None:
        for written in write_viewers(found, lesion, viewers).values():
            typer.echo(str(written))
