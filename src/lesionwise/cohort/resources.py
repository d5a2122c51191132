"""Cores and memory that a run may use, and the engine that uses them."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lesionwise import __version__
from lesionwise.cohort.engines import (
    AbstractEngine,
    DaskCluster,
    InProcess,
    LocalProcesses,
    limit_threads,
    usable_threads,
)
from lesionwise.errors import InputError
from lesionwise.memory import MEMORY_SHARE, free_memory_bytes


def engine_for(
    *, workers: int | None, scheduler: str | None, device: str, sees: Sequence[Path], writes: Path
) -> AbstractEngine:
    """The engine that the command line asks for; cluster workers must see the folders `sees` and write to `writes`.

    Raises InputError where cores or GPUs do not suffice, or if both processes and a cluster are asked for.
    """
    if workers is not None and scheduler is not None:
        raise InputError("Expected either --workers or --scheduler, found both.")
    if scheduler is not None:
        check_fn = partial(unfit_worker, [str(one.resolve()) for one in sees], str(writes.resolve()), __version__)
        return DaskCluster(scheduler, gpu=device.startswith("cuda"), check_fn=check_fn)
    if workers is not None and workers > 1:
        return LocalProcesses.share(workers, device=device)
    limit_threads(usable_threads())
    return InProcess()


def unfit_worker(sees: Sequence[str], out: str, version: str) -> str | None:
    """Why this machine cannot take part in a run; None if it can. Runs on every worker before the first unit."""
    if __version__ != version:
        return f"it runs lesionwise {__version__}, the study {version}"
    unseen = [folder for folder in sees if not Path(folder).is_dir()]
    if unseen:
        return f"it does not see the folder {unseen[0]}"
    if not os.access(Path(out).parent if not Path(out).exists() else out, os.W_OK):
        return f"it cannot write to {out}"
    return None


def cluster_device(scheduler: str) -> str:
    """What `--device auto` means on a cluster: "cuda" if its workers offer GPUs, else "cpu"."""
    return "cuda" if DaskCluster(scheduler).offers_gpu() else "cpu"


def memory_per_process(processes: int, *, device: str) -> int | None:
    """Bytes that one of several processes may hold; None on a GPU, whose own free memory is asked when it is used."""
    if device.startswith("cuda"):
        return None
    return int(MEMORY_SHARE * free_memory_bytes() / processes)
