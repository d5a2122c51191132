"""Where the scans of a cohort are worked on, as the command line asks for it: `--workers`, `--scheduler`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lesionwise.cohort.engines import AbstractEngine

SHOWN = 20
"""Left-out scans that are named on the console; the others are in the list."""


@dataclass(frozen=True)
class Spread:
    """`--workers` and `--scheduler` of one command."""

    workers: int | None = None
    scheduler: str | None = None

    def device(self, asked: str) -> str:
        """What `--device` means for the processes that do the work."""
        from lesionwise.api import resolve_device
        from lesionwise.cohort.resources import cluster_device

        if self.scheduler is not None:
            return cluster_device(self.scheduler) if asked == "auto" else asked
        resolved = resolve_device(asked)
        # a process of several sees one GPU, whatever its number here
        return "cuda" if resolved.startswith("cuda") and (self.workers or 1) > 1 else resolved

    def engine(self, device: str, *, sees: Sequence[Path], writes: Path) -> "AbstractEngine":
        """The engine; `sees` are the folders that every worker must see, `writes` is where it must write."""
        from lesionwise.cohort.resources import engine_for

        return engine_for(workers=self.workers, scheduler=self.scheduler, device=device, sees=sees, writes=writes)

    def memory_bytes(self, device: str) -> int | None:
        """What one process may hold; None on a cluster, where each worker knows its own limit."""
        from lesionwise.cohort.resources import memory_per_process

        return None if self.scheduler is not None else memory_per_process(self.workers or 1, device=device)


def absolute_ref(ref: str) -> str:
    """A file's or folder's path that is right in every process; the name of a shipped model, and options, as they are."""
    path, mark, options = ref.partition("?")
    return f"{Path(path).resolve()}{mark}{options}" if Path(path).exists() else ref


def tell_left_out(left_out: Sequence[tuple[str, str]], listed: Path | None = None) -> None:
    """Names scans that were left out, and ends the command with exit code 3 if there are any; `listed` names them all."""
    if not left_out:
        return
    for stem, reason in left_out[:SHOWN]:
        typer.echo(f"left out: {stem}: {reason}", err=True)
    more = len(left_out) - SHOWN
    if more > 0 or listed is not None:
        where = "" if listed is None else f"reasons: {listed}"
        typer.echo(f"{f'{more} more; ' if more > 0 else ''}{where}", err=True)
    raise typer.Exit(3)
