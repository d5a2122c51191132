"""Where units of work run: in this process, in local processes, or on a Dask cluster.

An engine takes tasks and a function and yields results as they come; order and place make no difference to a result. A
unit whose process dies is done again elsewhere, a few times, and then reported, so that one bad scan cannot stop a
cohort.
"""

import json
import multiprocessing
import os
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lesionwise.cohort.within import Step, listening, tell, through
from lesionwise.errors import InputError, MissingExtraError
from lesionwise.memory import keep_freed_memory

RETRIES = 2
"""How often a unit is done again after its process died."""

UnitFn = Callable[[Any], Any]


@dataclass(frozen=True)
class UnitFault:
    """A unit that could not be done: its process died every time, or it raised what it should not."""

    reason: str
    details: str = ""


class AbstractEngine(ABC):
    """Runs a function over tasks."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Where units run, for people."""

    @abstractmethod
    def run(self, tasks: Sequence[Any], unit_fn: UnitFn) -> Iterator[tuple[int, Any]]:
        """Yields (index of the task, result or UnitFault) as units finish.

        What units tell while they work (`lesionwise.cohort.within`) is heard in the calling process, except from a cluster.
        """


@dataclass(frozen=True)
class InProcess(AbstractEngine):
    """One unit after the other, here."""

    @property
    def description(self) -> str:
        """Where units run, for people."""
        return "this process"

    def run(self, tasks: Sequence[Any], unit_fn: UnitFn) -> Iterator[tuple[int, Any]]:
        """Yields (index of the task, result or UnitFault) in the tasks' order."""
        for index, task in enumerate(tasks):
            yield index, _guarded(unit_fn, task)


@dataclass(frozen=True)
class LocalProcesses(AbstractEngine):
    """Spawned processes on this machine that share its cores, and its GPUs one each.

    `threads` is each process's share of the cores. `gpus` holds one CUDA device number per process, or is empty for
    computing on the CPU.
    """

    workers: int
    threads: int = 1
    gpus: tuple[str, ...] = ()
    retries: int = RETRIES

    @classmethod
    def share(cls, workers: int, *, device: str = "cpu", cores: int | None = None) -> "LocalProcesses":
        """Divides cores, or GPUs, among the processes. Raises InputError for more processes than there is room for."""
        cores = cores or usable_cores()
        gpus = visible_gpus() if device.startswith("cuda") else ()
        if device.startswith("cuda") and workers > len(gpus):
            raise InputError(f"Expected at most one worker per GPU, found {workers} workers for {len(gpus)} GPUs.")
        if workers > cores:
            raise InputError(f"Expected at most one worker per core, found {workers} workers for {cores} cores.")
        threads = min(max(1, cores // workers), _number("OMP_NUM_THREADS") or cores)
        return cls(workers, threads, gpus[:workers])

    @property
    def description(self) -> str:
        """Where units run, for people."""
        each = f"a GPU and {self.threads} threads" if self.gpus else f"{self.threads} threads"
        return f"{self.workers} processes with {each} each"

    def run(self, tasks: Sequence[Any], unit_fn: UnitFn) -> Iterator[tuple[int, Any]]:
        """Yields (index of the task, result or UnitFault) as units finish."""
        todo = deque((index, 0) for index in range(len(tasks)))
        crew: list[_Worker] = []
        try:
            crew = [self._hire(place) for place in range(min(self.workers, len(tasks)))]
            while todo or any(worker.job is not None for worker in crew):
                for worker in crew:
                    if worker.job is None and todo:
                        index, tries = todo.popleft()
                        worker.give(index, tries, unit_fn, tasks[index])
                waiting = {worker.pipe: worker for worker in crew if worker.job is not None}
                for pipe in wait(list(waiting)):
                    worker = waiting[pipe]  # type: ignore[index]
                    index, tries = worker.job  # type: ignore[misc]
                    try:
                        result = worker.pipe.recv()
                        if isinstance(result, Step):
                            tell(*result)
                            continue
                        worker.job = None
                    except (EOFError, OSError):
                        code = worker.lost()
                        crew[crew.index(worker)] = self._hire(worker.place)
                        if tries < self.retries:
                            todo.append((index, tries + 1))
                            continue
                        result = UnitFault(f"its process died {tries + 1} times ({_death(code)})")
                    yield index, result
        finally:
            for worker in crew:
                worker.dismiss()

    def _hire(self, place: int) -> "_Worker":
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        gpu = self.gpus[place] if self.gpus else None
        process = context.Process(target=_serve, args=(theirs, self.threads, gpu), daemon=True)
        process.start()
        theirs.close()
        return _Worker(place, process, ours)


@dataclass(frozen=True)
class DaskCluster(AbstractEngine):
    """Any Dask cluster: `where` is a scheduler's address, or the file it wrote with --scheduler-file.

    With `gpu` a unit takes one of a worker's resource GPU (`dask worker --resources GPU=1`), so that no two units share
    one. `check_fn` runs once on every worker before the first unit and returns a sentence if the worker is not fit.
    """

    where: str
    gpu: bool = False
    retries: int = RETRIES
    timeout_s: float = 60.0
    check_fn: Callable[[], str | None] | None = None

    @property
    def description(self) -> str:
        """Where units run, for people."""
        return f"the Dask cluster {self.where}"

    def run(self, tasks: Sequence[Any], unit_fn: UnitFn) -> Iterator[tuple[int, Any]]:
        """Yields (index of the task, result or UnitFault) as units finish."""
        distributed = _distributed()
        with self._client(distributed) as client, client.as_current():
            self._check(client)
            suspects: list[int] = []
            for index, result in self._round(client, distributed, tasks, range(len(tasks)), unit_fn):
                if isinstance(result, distributed.KilledWorker):
                    suspects.append(index)
                else:
                    yield index, result
            # Dask blames all units that a dying worker held, also those that only waited there. Alone, each shows
            # whether it was to blame.
            for suspect in suspects:
                for index, result in self._round(client, distributed, tasks, [suspect], unit_fn):
                    fault = UnitFault(f"the cluster gave it up: {_first_line(result)}")
                    yield index, fault if isinstance(result, distributed.KilledWorker) else result

    def _round(
        self, client: Any, distributed: Any, tasks: Sequence[Any], chosen: Sequence[int], unit_fn: UnitFn
    ) -> Iterator[tuple[int, Any]]:
        """Sends the chosen units out together; yields results, and KilledWorker for those that were given up."""
        futures = client.map(
            _on_cluster,
            [unit_fn] * len(chosen),
            [tasks[index] for index in chosen],
            pure=False,
            retries=self.retries,
            resources={"GPU": 1} if self.gpu else None,
            key="lesionwise-unit",
        )
        index_of = {future.key: index for index, future in zip(chosen, futures, strict=True)}
        try:
            completed = distributed.as_completed(futures)
            for future in completed:
                if future.status in ("pending", "lost"):  # its worker died with the result: it is done again
                    completed.add(future)
                    continue
                if future.status == "finished":
                    result = future.result()
                else:
                    result = future.exception() if future.status == "error" else "cancelled"
                    if not isinstance(result, distributed.KilledWorker):
                        result = UnitFault(f"the cluster gave it up: {_first_line(result)}")
                yield index_of[future.key], result
                future.release()
        finally:
            client.cancel(futures)

    def offers_gpu(self) -> bool:
        """True if a worker of the cluster offers the resource GPU."""
        with self._client(_distributed()) as client:
            return _any_gpu(client)

    def _client(self, distributed: Any) -> Any:
        file = Path(self.where)
        if "://" not in self.where and not file.is_file():
            raise InputError(
                f"Expected --scheduler to be an address such as tcp://host:8786 or a scheduler file, found {self.where}."
            )
        if "://" not in self.where:
            _check_scheduler_file(file)
        where = {"address": self.where} if "://" in self.where else {"scheduler_file": str(file)}
        try:
            client = distributed.Client(**where, timeout=self.timeout_s, set_as_default=False)
            client.wait_for_workers(1, timeout=self.timeout_s)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(
                f"Expected a Dask scheduler with workers at {self.where}, but: {_first_line(error)}."
            ) from error
        return client

    def _check(self, client: Any) -> None:
        if self.gpu and not _any_gpu(client):
            raise InputError("Expected Dask workers that offer a GPU (dask worker --resources GPU=1), found none.")
        if self.check_fn is not None:
            for address, unfit in client.run(self.check_fn, on_error="return").items():
                if unfit is not None:
                    raise InputError(f"The Dask worker {address} cannot work: {_first_line(unfit)}")


def _check_scheduler_file(path: Path) -> None:
    """Raises InputError unless the file is what a Dask scheduler writes."""
    try:
        address = json.loads(path.read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        address = None
    if not isinstance(address, str):
        raise InputError(
            f"Expected the file that dask scheduler --scheduler-file writes, found something else in {path}."
        )


@dataclass
class _Worker:
    """A local process, its pipe, and the (task index, tries so far) that it has in hand."""

    place: int
    process: BaseProcess
    pipe: Connection
    job: tuple[int, int] | None = None

    def give(self, index: int, tries: int, unit_fn: UnitFn, task: Any) -> None:
        self.job = (index, tries)
        # if it died while idle, the closed pipe is noticed and the unit given to its successor
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((unit_fn, task))

    def lost(self) -> int | None:
        self.pipe.close()
        self.process.join(5)
        return self.process.exitcode

    def dismiss(self) -> None:
        self.pipe.close()  # an idle process sees the end of its pipe and leaves
        self.process.join(0 if self.job is not None else 2)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(5)


def usable_cores() -> int:
    """Cores this process may use: its affinity mask where there is one, cut by SLURM's allocation."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _number("SLURM_CPUS_PER_TASK") or cores)


def usable_threads() -> int:
    """Threads for one process that has the cores to itself: all of them, or fewer if OMP_NUM_THREADS says so."""
    cores = usable_cores()
    return min(cores, _number("OMP_NUM_THREADS") or cores)


def _number(variable: str) -> int | None:
    """An environment variable's number above 0; None for anything else."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdigit() and int(value) > 0 else None


def visible_gpus() -> tuple[str, ...]:
    """CUDA device names this process may use."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return tuple(part.strip() for part in listed.split(",") if part.strip() not in ("", "-1"))
    import torch

    return tuple(str(n) for n in range(torch.cuda.device_count()))


def limit_threads(threads: int) -> None:
    """Keeps this process to its share of the cores."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:  # otherwise the variables are read when it is loaded
        sys.modules["torch"].set_num_threads(threads)


def _serve(pipe: Connection, threads: int, gpu: str | None) -> None:
    """A local worker: does what comes through the pipe until it closes."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    limit_threads(threads)
    keep_freed_memory()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            unit_fn, task = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            with listening(through(pipe.send)):
                result = _guarded(unit_fn, task)
            pipe.send(result)
        except (BrokenPipeError, KeyboardInterrupt):
            return


def _leave_with_parent() -> None:
    """Ends this worker when the process that hired it is gone, also in the middle of a scan that nobody waits for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _on_cluster(unit_fn: UnitFn, task: Any) -> Any:
    """A unit on a Dask worker, with as many threads as SLURM gave it cores; else those that Dask gave it (one)."""
    granted = _number("SLURM_CPUS_PER_TASK")
    if granted is not None:
        limit_threads(min(granted, usable_cores()))
    keep_freed_memory()
    return _guarded(unit_fn, task)


def _guarded(unit_fn: UnitFn, task: Any) -> Any:
    try:
        return unit_fn(task)
    except Exception as error:  # one unit's fault must not stop the others
        return UnitFault(f"{type(error).__name__}: {_first_line(error)}", traceback.format_exc())


def cluster_memory_bytes() -> int | None:
    """Memory limit of the Dask worker that this code runs in; None anywhere else, and for workers without a limit."""
    if "distributed" not in sys.modules:
        return None
    try:
        limit = sys.modules["distributed"].get_worker().memory_manager.memory_limit
    except (ValueError, AttributeError):
        return None
    return int(limit) if limit else None


def _any_gpu(client: Any) -> bool:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return any(worker.get("resources", {}).get("GPU") for worker in workers.values())


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError.of("distributed", extra="cluster", purpose="--scheduler") from error
    return distributed


def _death(code: int | None) -> str:
    if code == -9:
        return "killed, perhaps for want of memory"
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
