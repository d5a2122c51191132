"""One seed, one map: whatever the batch, the order of windows, the shard, the number of threads or the device."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lesionwise.attribution import SmoothGrad, attribute, plan_attribution
from lesionwise.windows import WindowGrid

from ..conftest import OMEGA
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
    plan = replace(plan, **{"strategy": "loop", "batch": 1, "together": 1, **changes})
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


class Launch(nn.Module):
    """Takes 10 ms for any batch, as starting many small kernels on a GPU does."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        time.sleep(0.01)
        return self.inner(x)


def test_the_plan_batches_windows_where_that_measures_faster(setup):
    network, method = Launch(setup.network), SmoothGrad(n_samples=3)
    plan = plan_attribution(network, setup.spec, setup.placement, SETS, method=method)
    assert plan.batch > 1
    less = int(1.2 * plan.memory_bytes) // plan.batch  # enough for one window, not for as many
    small = plan_attribution(network, setup.spec, setup.placement, SETS, method=method, memory_bytes=less)
    assert small.batch < plan.batch
    same(
        attribute(network, setup.spec, setup.placement, SETS, method=method, plan=plan),
        attribute(setup.network, setup.spec, setup.placement, SETS, method=method, plan=replace(plan, batch=1)),
    )
