"""Wherever units run, results are the same; a unit whose process dies is done again, and in the end reported."""

import itertools
import os
import sys
import time
from pathlib import Path

import pytest
from dask_cluster import dask_cluster

from lesionwise.cohort.engines import DaskCluster, InProcess, LocalProcesses, UnitFault, usable_cores, usable_threads
from lesionwise.cohort.within import listening
from lesionwise.errors import InputError

WORK = '''
import os, signal, time
from pathlib import Path

def square(n):
    return n * n

def surroundings(_):
    time.sleep(0.3)  # so that every process gets one
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"), os.getpid()

def torch_threads(_):
    import torch
    return torch.get_num_threads()

def die_once(task):
    """The first process that has it is killed half-way."""
    folder, n = task
    mark = Path(folder) / f"{n}.died"
    if n == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n

def die_always(n):
    if n == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return n

def raise_on_one(n):
    if n == 1:
        raise KeyError("one")
    return n

def step_by_step(n):
    from lesionwise.cohort.within import tell
    for done in (1, 2, 3):
        tell(f"unit {n}", "explain", done, 3)
    return n

def unfit():
    return "no data set"

def alone(task):
    """Says when it held the resource."""
    start = time.time()
    time.sleep(0.3)
    return os.getpid(), start, time.time()
'''


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "study_work.py").write_text(WORK)
    return folder


@pytest.fixture
def work(work_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(work_folder))
    import study_work

    return study_work


@pytest.fixture(scope="module")
def cluster(work_folder, tmp_path_factory):
    """A real scheduler and three single-threaded workers under nannies, two of them with a GPU to offer."""
    pytest.importorskip("distributed")
    environment = {
        "PYTHONPATH": os.pathsep.join([str(work_folder), *sys.path]),
        "SLURM_CPUS_PER_TASK": str(usable_cores()),
    }
    no_limit = ["--memory-limit", "0"]
    with_gpu = [*no_limit, "--nworkers", "2", "--resources", "GPU=1"]
    with dask_cluster(tmp_path_factory.mktemp("cluster"), with_gpu, no_limit, environment=environment) as file:
        yield file


def _results(engine, tasks, unit_fn):
    found = dict(engine.run(tasks, unit_fn))
    assert sorted(found) == list(range(len(tasks)))
    return [found[index] for index in range(len(tasks))]


def test_here_and_in_processes_give_the_same(work):
    tasks = list(range(7))
    serial = _results(InProcess(), tasks, work.square)
    assert serial == [n * n for n in tasks]
    assert _results(LocalProcesses(2), tasks, work.square) == serial


def test_no_tasks_start_no_process(work):
    assert list(LocalProcesses(4).run([], work.square)) == []


def test_each_process_has_its_threads_and_its_gpu(work):
    seen = _results(LocalProcesses(2, threads=3, gpus=("4", "7")), list(range(4)), work.surroundings)
    assert {gpu for gpu, _, _ in seen} == {"4", "7"}
    assert {threads for _, threads, _ in seen} == {"3"}
    assert len({pid for _, _, pid in seen}) == 2


def test_a_unit_whose_process_is_killed_is_done_by_another(work, tmp_path):
    tasks = [(str(tmp_path), n) for n in range(4)]
    assert _results(LocalProcesses(2), tasks, work.die_once) == [0, 1, 2, 3]
    assert (tmp_path / "2.died").exists()


def test_a_unit_that_kills_every_process_is_reported(work):
    found = _results(LocalProcesses(2, retries=1), [0, 1, 2], work.die_always)
    assert (found[0], found[2]) == (0, 2)
    assert found[1] == UnitFault("its process died 2 times (killed, perhaps for want of memory)")


@pytest.mark.parametrize("engine", [InProcess(), LocalProcesses(2)], ids=["here", "processes"])
def test_an_error_in_a_unit_is_its_result(work, engine):
    found = _results(engine, [0, 1], work.raise_on_one)
    assert found[0] == 0
    assert found[1].reason == "KeyError: 'one'"
    assert "raise_on_one" in found[1].details


@pytest.mark.parametrize("engine", [InProcess(), LocalProcesses(2)], ids=["here", "processes"])
def test_what_units_tell_while_they_work_is_heard(work, engine):
    heard = []
    with listening(lambda *step: heard.append(step)):
        assert _results(engine, [0, 1], work.step_by_step) == [0, 1]
    for n in (0, 1):
        mine = [done for unit, stage, done, total in heard if (unit, stage, total) == (f"unit {n}", "explain", 3)]
        assert mine[0] == 1
        assert mine[-1] == 3, "the end of a stage is always told"
    heard.clear()
    assert _results(engine, [0], work.step_by_step) == [0]
    assert heard == [], "nobody listens any more"


def test_giving_up_half_way_leaves_no_process(work):
    running = LocalProcesses(2).run(list(range(50)), work.surroundings)
    _, (_, _, pid) = next(running)
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_torch_computes_with_the_threads_that_a_process_was_given(work, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert _results(LocalProcesses(1, threads=1), [0], work.torch_threads) == [1]


def test_cores_are_divided_and_never_promised_twice(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert LocalProcesses.share(3, cores=8) == LocalProcesses(3, threads=2)
    with pytest.raises(InputError, match="9 workers for 8 cores"):
        LocalProcesses.share(9, cores=8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,6")
    assert LocalProcesses.share(2, device="cuda", cores=8).gpus == ("2", "5")
    with pytest.raises(InputError, match="4 workers for 3 GPUs"):
        LocalProcesses.share(4, device="cuda", cores=8)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert usable_cores() == usable_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # who asks for fewer threads gets fewer
    assert LocalProcesses.share(3, cores=8) == LocalProcesses(3, threads=1)


@pytest.mark.slow
def test_on_a_cluster_as_here(work, cluster):
    tasks = list(range(40))
    assert _results(DaskCluster(str(cluster)), tasks, work.square) == [n * n for n in tasks]


@pytest.mark.slow
def test_a_cluster_s_worker_computes_with_the_cores_that_slurm_gave_it(work, cluster):
    assert set(_results(DaskCluster(str(cluster)), [0, 1, 2], work.torch_threads)) == {usable_cores()}


@pytest.mark.slow
def test_a_killed_cluster_worker_s_unit_is_done_elsewhere(work, cluster, tmp_path):
    tasks = [(str(tmp_path), n) for n in range(5)]
    assert _results(DaskCluster(str(cluster)), tasks, work.die_once) == [0, 1, 2, 3, 4]
    assert (tmp_path / "2.died").exists()


@pytest.mark.slow
def test_a_unit_that_kills_every_cluster_worker_is_reported(work, cluster):
    found = _results(DaskCluster(str(cluster)), [0, 1, 2], work.die_always)
    assert (found[0], found[2]) == (0, 2)
    assert isinstance(found[1], UnitFault)
    assert "the cluster gave it up" in found[1].reason


@pytest.mark.slow
def test_an_error_on_a_cluster_is_the_unit_s_result(work, cluster):
    found = _results(DaskCluster(str(cluster)), [0, 1], work.raise_on_one)
    assert (found[0], found[1].reason) == (0, "KeyError: 'one'")


@pytest.mark.slow
def test_units_on_gpus_take_one_each_and_only_where_there_is_one(work, cluster):
    engine = DaskCluster(str(cluster), gpu=True)
    deadline = time.time() + 90  # workers killed by other tests may still be on their way back
    while not engine.offers_gpu() and time.time() < deadline:
        time.sleep(0.5)
    spans = _results(engine, list(range(6)), work.alone)
    by_process: dict[int, list] = {}
    for pid, start, stop in spans:
        by_process.setdefault(pid, []).append((start, stop))
    assert len(by_process) <= 2  # of three workers two offer a GPU
    for mine in by_process.values():
        mine.sort()
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(mine))


@pytest.mark.slow
def test_a_cluster_that_is_not_fit_says_so_before_work_starts(work, cluster):
    with pytest.raises(InputError, match="cannot work: no data set"):
        list(DaskCluster(str(cluster), check_fn=work.unfit).run([1], work.square))
    with pytest.raises(InputError, match="address such as tcp"):
        list(DaskCluster(str(Path(cluster).with_name("none.json"))).run([1], work.square))
    with pytest.raises(InputError, match="Expected a Dask scheduler"):
        list(DaskCluster("tcp://127.0.0.1:9", timeout_s=1).run([1], work.square))
