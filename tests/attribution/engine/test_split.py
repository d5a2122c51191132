"""Networks with instance norm: statistics held, and the unbiased estimate of the exact map made of two parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from lesionwise.attribution import Gradient, HiResCAM, IntegratedGradients, SmoothGrad, attribute, plan_attribution
from lesionwise.attribution.engine.noise import spread
from lesionwise.errors import InputError

from ..conftest import OMEGA, place, random_scan, rescheduled, small_network, small_spec
from ..methods.test_gradient import noises_of


class Normed(nn.Module):
    """Convolution and a norm over the whole window, twice."""

    def __init__(self, norm_fn=lambda c: nn.InstanceNorm3d(c, affine=True)):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.norms, self.last = nn.ModuleList([norm_fn(4), norm_fn(4)]), nn.Conv3d(4, 2, 1)

    def forward(self, x):
        x = nn.functional.softplus(self.norms[0](self.first(x)))
        return self.last(nn.functional.softplus(self.norms[1](self.second(x))))


NORMS = {
    "instance": lambda c: nn.InstanceNorm3d(c, affine=True),
    "instance, plain": nn.InstanceNorm3d,
    "group": lambda c: nn.GroupNorm(2, c),
}
WINDOW = (20, 18, 16)
SPEC = small_spec(window=WINDOW, overlap=0.25)
LESION = np.array([[12, 10, 9], [12, 10, 10], [11, 10, 9]])


def held_by_hand(network, x):
    """A function that normalises by the figures of `x` (channels, i, j, k), whatever it is given."""
    figures = []

    def norm(module, y, own):
        if own is None:
            groups = getattr(module, "num_groups", y.shape[1])
            folded = y[0].reshape(groups, -1)
            each = y.shape[1] // groups
            own = [
                f.repeat_interleave(each).reshape(1, -1, 1, 1, 1) for f in (folded.mean(1), folded.var(1, correction=0))
            ]
            figures.append([f.detach() for f in own])
        out = (y - own[0]) / torch.sqrt(own[1] + module.eps)
        if module.weight is None:
            return out
        return out * module.weight.reshape(1, -1, 1, 1, 1) + module.bias.reshape(1, -1, 1, 1, 1)

    def run(z, known):
        z = nn.functional.softplus(norm(network.norms[0], network.first(z), known[0] if known else None))
        return network.last(
            nn.functional.softplus(norm(network.norms[1], network.second(z), known[1] if known else None))
        )

    run(x[None], None)
    return lambda z: run(z, figures)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("strategy", ["local", "loop"])
def test_held_statistics_are_those_of_the_unchanged_window(norm, strategy):
    network, scan = Normed(NORMS[norm]).double().eval(), random_scan(WINDOW)
    placement, method = place(scan), SmoothGrad(n_samples=3)
    plan = plan_attribution(network, SPEC, placement, [LESION], method=method, statistics="fixed")
    assert (plan.statistics, plan.schedule.strategy) == ("fixed", "local")
    found = attribute(
        network, SPEC, placement, [LESION], method=method, statistics="fixed", seed=5,
        plan=rescheduled(plan, strategy=strategy),
    )[0]  # fmt: skip
    held, expected = held_by_hand(network, scan), 0
    exact = attribute(network, SPEC, placement, [LESION], method=method, statistics="exact", seed=5)[0]
    for noise in noises_of(SPEC, placement, method, seed=5):
        leaf = (scan + noise[0]).requires_grad_(True)
        logits = held(leaf[None])[0]
        (gradient,) = torch.autograd.grad((logits[1] - logits[0])[tuple(LESION.T)].mean(), leaf)
        expected = expected + gradient / 3
    expected = (expected * placement.scale.reshape(-1, 1, 1, 1)).numpy()
    whole = np.zeros_like(expected)
    whole[(slice(None), *found.box.slices)] = found.data
    assert np.abs(whole - expected).max() < 1e-12 * np.abs(expected).max()
    assert found.details["statistics"] == "fixed"
    assert found.box.shape < exact.box.shape


def test_without_noise_the_two_parts_are_the_exact_derivative():
    network, placement = Normed().double().eval(), place(random_scan((24, 20, 18)))
    exact = attribute(network, SPEC, placement, [LESION], method=Gradient())[0]
    method = SmoothGrad(n_samples=2, noise=0.0)
    split = attribute(network, SPEC, placement, [LESION], method=method, statistics="split")[0]
    assert exact.box == split.box
    assert np.abs(split.data - exact.data).max() < 1e-13
    fixed, stat = split.parts["fixed"], split.parts["stat"]
    assert np.abs(fixed.data).sum() > 0 < np.abs(stat.data).sum()
    assert fixed.box.intersection(stat.box) == fixed.box != stat.box
    assert split.details["full_draws"] == stat.draws == 4


@pytest.mark.slow
def test_the_split_map_is_unbiased_and_its_error_covers():
    """Over 200 seeds: the mean is that of many exact draws, and 95 % intervals hold it in 93 to 97 % of cases."""
    shape, omega, seeds = (6, 6, 6), np.array([[3, 3, 3], [3, 3, 2]]), 200
    network, scan = Normed().double().eval(), random_scan(shape)
    spec, placement = small_spec(window=shape), place(scan)
    method = SmoothGrad(n_samples=6, noise=0.3, antithetic=False)
    plan = plan_attribution(network, spec, placement, [omega], method=method, statistics="fixed")
    full = replace(plan.schedule, strategy="loop", batch=1)
    plan = replace(plan, statistics="split", full=full, full_draws=6)
    values, errors, within = [], [], []
    truth, truth_se = many_exact_draws(network, placement, omega, method)
    for seed in range(seeds):
        found = attribute(network, spec, placement, [omega], method=method, plan=plan, statistics="split", seed=seed)[0]
        whole, se = np.zeros((2, *shape)), np.zeros((2, *shape))
        inside = (slice(None), *found.box.slices)
        whole[inside], se[inside] = found.data, found.se
        squares = [np.zeros((2, *shape)) for _ in range(2)]
        for square, part in zip(squares, found.parts.values(), strict=True):
            square[(slice(None), *part.box.slices)] = part.se**2
        assert np.allclose(se**2, squares[0] + squares[1])
        freedom = (squares[0] + squares[1]) ** 2 / ((squares[0] ** 2 + squares[1] ** 2) / 5)
        values.append(whole)
        errors.append(se)
        within.append(np.abs(whole - truth) <= stats.t.ppf(0.975, freedom) * np.hypot(se, truth_se))
    mean, spread = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
    z = (mean - truth) / np.hypot(spread / np.sqrt(seeds), truth_se)
    assert 0.5 < np.mean(z**2) < 1.6
    assert 0.93 < np.mean(within) < 0.97
    assert 0.95 < np.sqrt(np.mean(np.square(errors))) / np.sqrt(np.mean(spread**2)) < 1.05


def many_exact_draws(network, placement, omega, method, count=3000):
    sigma = torch.from_numpy(spread(placement.input[0], placement.head, noise=method.noise)).reshape(1, -1, 1, 1, 1)
    noise = torch.randn(count, *placement.input.shape[1:], dtype=torch.float64, generator=torch.manual_seed(1))
    inputs = (placement.input + noise * sigma * placement.head).requires_grad_(True)
    logits = network(inputs)
    i, j, k = omega.T
    (each,) = torch.autograd.grad((logits[:, 1] - logits[:, 0])[:, i, j, k].mean(dim=1).sum(), inputs)
    each = (each * placement.scale.reshape(1, -1, 1, 1, 1)).numpy()
    return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(count)


def test_the_plan_chooses_by_the_network_and_the_method():
    scan = place(random_scan((24, 20, 18)))

    def chosen(network, method, **options):
        return plan_attribution(network.double().eval(), SPEC, scan, [LESION], method=method, **options)

    split = chosen(Normed(), SmoothGrad(n_samples=32))
    assert split.statistics == "split"
    assert 4 <= split.full_draws < 16
    assert "with normalisation statistics held and" in split.describe()
    assert chosen(Normed(), SmoothGrad(n_samples=2)).statistics == "exact"
    assert chosen(Normed(), SmoothGrad(n_samples=32, tolerance=0.1)).statistics == "exact"
    assert chosen(Normed(), SmoothGrad(n_samples=3, reduce="max")).statistics == "fixed"
    assert chosen(small_network(), SmoothGrad(n_samples=32)).statistics == "exact"
    assert chosen(Normed(), IntegratedGradients(4)).statistics == "exact"


def test_what_cannot_be_held_is_said(setup):
    scripted = torch.jit.script(nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.InstanceNorm3d(2))).double().eval()
    for network, method, wanted, sentence in (
        (scripted, SmoothGrad(2), "fixed", "TorchScript"),
        (setup.network, HiResCAM(), "fixed", "offers --statistics auto or exact, found fixed"),
        (setup.network, SmoothGrad(2, reduce="max"), "split", "auto or exact or fixed, found split"),
        (setup.network, SmoothGrad(2), "frozen", "found 'frozen'"),
    ):
        with pytest.raises(InputError, match=sentence):
            plan_attribution(network, setup.spec, setup.placement, [OMEGA], method=method, statistics=wanted)
