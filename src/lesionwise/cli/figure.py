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
    lesion: Annotated[str, typer.Option("--lesion", help="Lesion number, or several such as 1,4,7 on one sheet.")],
    scan: Annotated[
        str | None, typer.Option("--scan", help="Which scan, such as sub-01_ses-2, if there are several.")
    ] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Picture to write (.png, .pdf, .svg).")] = None,
    limit: Annotated[
        float | None, typer.Option("--limit", help="End of the colour scale, in the unit that the colour bar names.")
    ] = None,
    channel: Annotated[
        list[str] | None, typer.Option("--channel", help="Channel to draw, can be repeated; default: all of the map's.")
    ] = None,
    zoom: Annotated[float, typer.Option("--zoom", help="Width of a panel in mm, such as 30.")] = 70.0,
    method: Annotated[
        str | None, typer.Option("--method", help="Which maps, such as gradcampp, if there are several methods.")
    ] = None,
    viewers: Annotated[
        Path | None,
        typer.Option(
            "--viewers", help="Also write a NiiVue document and recipes for 3D Slicer, FSLeyes, ITK-SNAP here."
        ),
    ] = None,
) -> None:
    """Draw lesions as publication-ready panels."""
    names = {name.stem: name for name in list_scans(out)}
    if not names:
        raise InputError(f"Expected finished scans in {out}, found none.")
    if scan is None and len(names) > 1:
        raise InputError(f"Expected --scan, as {out} holds several scans: {', '.join(sorted(names)[:6])}.")
    chosen = next(iter(names)) if scan is None else scan
    if chosen not in names:
        raise InputError(f"Expected --scan to be one of {', '.join(sorted(names)[:6])}, found {chosen}.")
    labels = _labels(lesion)
    path = file or out / "figures" / f"{chosen}_lesion-{'-'.join(f'{label:03d}' for label in labels)}.png"
    found = read_sound_scan(out, names[chosen])
    lesion_figure(found, labels, path, fov_mm=zoom, desc=method, limit=limit, channels=channel or None)
    typer.echo(str(path))
    if viewers is not None:
        for label in labels:
            for written in write_viewers(found, label, viewers).values():
                typer.echo(str(written))


def _labels(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise InputError(f"Expected --lesion to be a number or several such as 1,4,7, found {text!r}.")
    return [int(part) for part in parts]
