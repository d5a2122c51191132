"""Memory that runs out in the middle: less is done at once, and the map is the same."""

import numpy as np
import pytest
import torch
from torch import nn

from lesionwise.attribution import Gradient, Occlusion, SmoothGrad, attribute, plan_attribution
from lesionwise.attribution.sparse.local import LocalCotangent
from lesionwise.errors import OutOfMemoryError

from ..conftest import OMEGA, place, random_scan, rescheduled, small_spec

ELSEWHERE = np.array([[2, 3, 2], [2, 3, 3], [2, 4, 3]])
RAISES = {
    "GPU": lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")),
    "processor": lambda: torch.empty(1 << 60),  # the allocator's own error
}


def _raise(error):
    raise error


class Greedy(nn.Module):
    """Needs more memory than there is for more than `most` windows, or more than `most_products` products at once."""

    def __init__(self, inner, raise_fn, most=1000, most_products=1000):
        super().__init__()
        self.inner, self.raise_fn, self.most, self.most_products = inner, raise_fn, most, most_products
        self.failed = 0

    def forward(self, x):
        self._check(len(x), self.most)
        y = self.inner(x)
        if y.requires_grad:
            y.register_hook(lambda grad: self._check(products(grad), self.most_products))
        return y

    def _check(self, count, most):
        if count > most:
            self.failed += 1
            self.raise_fn()


def products(grad):
    """How many cotangents come back together, in either way of batching them."""
    if isinstance(grad, LocalCotangent):
        return len(grad.held)
    batched = torch._C._functorch.is_legacy_batchedtensor(grad)
    return len(torch._remove_batch_dim(grad, 1, 1, 0)) if batched else 1


def maps(setup, network, method, target="log_odds", **changes):
    plan = plan_attribution(
        setup.network, setup.spec, setup.placement, [OMEGA, ELSEWHERE], method=method, target=target
    )
    return attribute(
        network, setup.spec, setup.placement, [OMEGA, ELSEWHERE], method=method, target=target,
        plan=rescheduled(plan, **{"strategy": "loop", "batch": 1, "together": 1, "kept_windows": 1, **changes}),
    )  # fmt: skip


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        union = a.box.union(b.box)
        wide = []
        for one in (a, b):
            wide.append(np.zeros((2, 2, *union.shape)))
            inside = (slice(None), *one.box.relative_to(union).slices)
            wide[-1][0][inside] = one.data
            if one.se is not None:
                wide[-1][1][inside] = one.se
        assert np.abs(wide[0] - wide[1]).max() < 1e-13 * max(1.0, np.abs(wide[1]).max())
        assert np.allclose(a.peak, b.peak, atol=1e-14)


@pytest.mark.parametrize(("kind", "target"), [("GPU", "log_odds"), ("processor", "probability")])
def test_a_forward_pass_that_does_not_fit_is_halved(setup, kind, target):
    method = SmoothGrad(n_samples=2)
    greedy = Greedy(setup.network, RAISES[kind], most=2)
    found = maps(setup, greedy, method, target, batch=16, kept_windows=16)
    assert greedy.failed == 3  # 16, 8, 4 windows at once
    same(found, maps(setup, setup.network, method, target))


@pytest.mark.parametrize(("kind", "strategy"), [("GPU", "batched"), ("processor", "local")])
def test_a_batched_backward_pass_that_does_not_fit_is_halved(setup, kind, strategy):
    method = SmoothGrad(n_samples=1, reduce="max")
    greedy = Greedy(setup.network, RAISES[kind], most_products=1)
    found = maps(setup, greedy, method, strategy=strategy, together=4)
    assert greedy.failed == 2  # 4, 2 products at once
    same(found, maps(setup, setup.network, method))


def test_it_may_run_out_in_the_middle_of_the_draws(setup):
    """The draws before were taken with larger batches, and on larger boxes."""
    greedy = Greedy(setup.network, RAISES["GPU"])

    def later(*_):
        greedy.most = 1

    for strategy, draws, batch in (("loop", 2, 24), ("local", 4, 2)):  # locally a batch is draws of one window
        greedy.most, method = 1000, SmoothGrad(n_samples=draws)
        plan = plan_attribution(setup.network, setup.spec, setup.placement, [OMEGA, ELSEWHERE], method=method)
        found = attribute(
            greedy, setup.spec, setup.placement, [OMEGA, ELSEWHERE], method=method, progress_fn=later,
            plan=rescheduled(plan, strategy=strategy, batch=batch),
        )  # fmt: skip
        same(found, maps(setup, setup.network, method))
    assert greedy.failed == 4 + 1  # 24, 12, 6, 3; then 2


def test_players_are_halved_too(setup):
    method = Occlusion(fill="zero")
    plan = plan_attribution(setup.network, setup.spec, setup.placement, [OMEGA], method=method)
    greedy = Greedy(setup.network, RAISES["GPU"], most=1)
    many, one = (
        attribute(network, setup.spec, setup.placement, [OMEGA], method=method, plan=rescheduled(plan, batch=batch))[0]
        for network, batch in ((greedy, 4), (setup.network, 1))
    )
    assert greedy.failed == 2
    assert np.allclose(many.data, one.data, atol=1e-13)


def test_one_window_that_does_not_fit_is_said_in_one_sentence(setup):
    greedy = Greedy(setup.network, RAISES["processor"], most=0)
    for network_plan in (
        None,
        plan_attribution(setup.network, setup.spec, setup.placement, [OMEGA], method=Gradient()),
    ):
        with pytest.raises(OutOfMemoryError, match="expected more memory"):
            attribute(greedy, setup.spec, setup.placement, [OMEGA], method=Gradient(), plan=network_plan)


def test_other_errors_are_not_taken_for_a_lack_of_memory(setup):
    greedy = Greedy(setup.network, lambda: _raise(RuntimeError("shapes do not match")), most=0)
    plan = plan_attribution(setup.network, setup.spec, setup.placement, [OMEGA], method=Gradient())
    with pytest.raises(RuntimeError, match="shapes do not match"):
        attribute(greedy, setup.spec, setup.placement, [OMEGA], method=Gradient(), plan=plan)
    assert greedy.failed == 1


def test_blocks_are_run_again_where_a_whole_graph_does_not_fit():
    """Half the memory, the same map."""
    torch.manual_seed(0)
    block = [
        nn.Sequential(nn.Sequential(nn.Conv3d(a, 8, 3, padding=1), nn.InstanceNorm3d(8), nn.Tanh()), nn.Tanh())
        for a in (2, 8, 8, 8)
    ]
    network = nn.Sequential(*block, nn.Conv3d(8, 2, 1)).double().eval()
    scan, spec, method = place(random_scan()), small_spec(), SmoothGrad(n_samples=3)
    free = plan_attribution(network, spec, scan, [OMEGA], method=method)
    assert not free.schedule.recompute
    tight = plan_attribution(network, spec, scan, [OMEGA], method=method, memory_bytes=int(0.9 * free.memory_bytes))
    assert tight.schedule.recompute
    assert tight.memory_bytes < 0.9 * free.memory_bytes
    found, expected = (
        attribute(network, spec, scan, [OMEGA], method=method, plan=plan) for plan in (tight, free)
    )  # fmt: skip
    same(found, expected)
    assert not any("forward" in module.__dict__ for module in network.modules())
