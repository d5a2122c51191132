"""`lesionwise serve`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    out: Annotated[Path, typer.Argument(help="Output folder of explain, study or demo.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; the default is this machine only.")
    ] = "127.0.0.1",
) -> None:
    """Serve an output folder's report on this machine: read-only, nothing outside the folder."""
    from lesionwise.report.serve import serve as run

    run(out, port=port, host=host, announce_fn=typer.echo)
