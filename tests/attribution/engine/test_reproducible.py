"""One seed, one map: whatever the batch, the order of windows, the shard, the number of threads or the device."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from lesionwise.attribution import SmoothGrad, attribute, plan_attribution
from lesionwise.windows import WindowGrid

from ..conftest import OMEGA, rescheduled
from .test_memory import ELSEWHERE, same

METHODS = {
    "mean": SmoothGrad(n_samples=3),
    "pairs": SmoothGrad(n_samples=4, antithetic=True),
    "stopped": SmoothGrad(n_samples=14, tolerance=0.3),
    "max": SmoothGrad(n_samples=1, reduce="max"),
}
SETS = [OMEGA, ELSEWHERE]


def explained(setup, method, target="log_odds", sets=SETS, **changes):
    plan = plan_attribution(setup.network, setup.spec, setup.placement, sets, method=method, target=target)
    plan = rescheduled(plan, **{"strategy": "loop", "batch": 1, "together": 1, **changes})
    return attribute(setup.network, setup.spec, setup.placement, sets, method=method, target=target, plan=plan, seed=11)


@pytest.mark.parametrize(("method", "target"), [*((m, "log_odds") for m in METHODS), ("mean", "probability")])
def test_the_batch_does_not_change_a_map(setup, method, target):
    chosen = METHODS[method]
    expected = explained(setup, chosen, target)
    for batch, strategy, kept in ((7, "local", 30), (64, "batched", 64)):
        found = explained(setup, chosen, target, batch=batch, strategy=strategy, kept_windows=kept, together=2)
        same(found, expected)
        assert [one.n_samples for one in found] == [one.n_samples for one in expected]


@pytest.mark.parametrize("method", ["mean", "max"])
def test_the_order_of_windows_does_not_change_a_map(setup, method, monkeypatch):
    expected, ordinary = explained(setup, METHODS[method]), WindowGrid.of

    def backwards(spec, shape):
        grid = ordinary(spec, shape)
        return replace(grid, boxes=grid.boxes[::-1])

    monkeypatch.setattr(WindowGrid, "of", backwards)
    same(explained(setup, METHODS[method]), expected)


@pytest.mark.parametrize("method", ["pairs", "max"])
def test_shards_do_not_change_a_map(setup, method):
    shards = [explained(setup, METHODS[method], sets=[one])[0] for one in SETS]
    same(shards, explained(setup, METHODS[method]))


def test_the_number_of_threads_does_not_change_a_map(setup):
    method, threads = SmoothGrad(n_samples=1, reduce="max"), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(explained(setup, method, sets=[ELSEWHERE]))
    finally:
        torch.set_num_threads(threads)
    same(*found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("method", METHODS)
def test_the_device_does_not_change_a_map(setup, method):
    expected = explained(setup, METHODS[method])
    found = attribute(setup.network, setup.spec, setup.placement, SETS, method=METHODS[method], device="cuda", seed=11)
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a.data.sum() - b.data.sum()) < 1e-9
        assert np.allclose(a.peak, b.peak, atol=1e-10)
    assert not next(setup.network.parameters()).is_cuda


@pytest.mark.parametrize("method", ["mean", "max"])
def test_the_clock_decides_nothing(setup, method, monkeypatch):
    """Equal input gives an equal plan and equal bytes, whatever seems to be fast at the moment."""
    network, found = setup.network.float(), []
    placement = replace(setup.placement, input=setup.placement.input.float())
    for seed in (1, 2, 3):
        ticks = np.random.default_rng(seed)
        monkeypatch.setattr(time, "perf_counter", lambda ticks=ticks: float(ticks.uniform(0, 1000)))
        plan = plan_attribution(network, setup.spec, placement, SETS, method=METHODS[method])
        maps = attribute(network, setup.spec, placement, SETS, method=METHODS[method], plan=plan)
        found.append((plan.schedule, plan.groups, [one.data.tobytes() for one in maps]))
    assert found[0] == found[1] == found[2]
