"""Mirrors and folds go one at a time; draws may be spread over them."""

import numpy as np
import pytest
import torch
from torch import nn

from lesionwise.attribution import Gradient, SmoothGrad, attribute, plan_attribution
from lesionwise.attribution.engine.draws import AsIs, Noisy
from lesionwise.attribution.engine.options import RunOptions
from lesionwise.attribution.engine.scene import Scene
from lesionwise.errors import InputError
from lesionwise.models.nnunet import FusedViews

from ..conftest import OMEGA, rescheduled, small_network


@pytest.fixture
def views():
    return FusedViews([small_network(seed=0), small_network(seed=1)], (0, 2)).double().eval()


class Plain(nn.Module):
    """The same network, whose views cannot be told apart."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("target", ["log_odds", "probability"])
def test_one_view_after_another_gives_the_map_of_all_at_once(setup, views, reduce, target):
    method = SmoothGrad(n_samples=1, reduce=reduce)
    run = {"method": method, "target": target, "seed": 3}
    plan = plan_attribution(views, setup.spec, setup.placement, [OMEGA[:2]], method=method, target=target)
    expected = attribute(Plain(views), setup.spec, setup.placement, [OMEGA[:2]], **run)[0]
    for strategy in ("local", "loop"):
        way = rescheduled(plan, strategy=strategy, batch=1, together=1)
        found = attribute(views, setup.spec, setup.placement, [OMEGA[:2]], plan=way, **run)[0]
        assert found.target_mean == pytest.approx(expected.target_mean, abs=1e-13)
        box = found.box.intersection(expected.box)
        a, b = (one.data[(slice(None), *box.relative_to(one.box).slices)] for one in (found, expected))
        assert np.abs(a - b).max() < 1e-13
        assert np.abs(found.data).sum() == pytest.approx(np.abs(expected.data).sum(), rel=1e-12)
        assert found.details["views_per_draw"] == 8


def test_the_mean_over_single_views_is_the_map_of_all(setup, views, monkeypatch):
    """Each draw sees one view, all with equal chance: the expectation is the ensemble's."""
    every = attribute(views, setup.spec, setup.placement, [OMEGA], method=Gradient())[0]
    total = np.zeros((2, *setup.scan.shape[1:]))
    for view in range(views.count):
        monkeypatch.setattr(AsIs, "views", lambda self, scene, draw, view=view: (view,))
        one = attribute(views, setup.spec, setup.placement, [OMEGA], method=Gradient(), views="spread")[0]
        total[(slice(None), *one.box.slices)] += one.data / views.count
    assert np.abs(total[(slice(None), *every.box.slices)] - every.data).max() < 1e-14


def test_views_are_drawn_evenly_and_pairs_share_theirs(setup, views):
    noisy = Noisy((0.1, 0.1), 4000, None, antithetic=True)
    with Scene.open(views, setup.spec, setup.placement, RunOptions(views="spread")) as scene:
        drawn = [noisy.views(scene, n) for n in range(noisy.count)]
    assert drawn[0::2] == drawn[1::2]
    counts = np.bincount([view for (view,) in drawn[::2]], minlength=8)
    assert ((counts - 250) ** 2 / 250).sum() < 24  # chi-square of 7 degrees of freedom, 0.1 %
    with Scene.open(views, setup.spec, setup.placement, RunOptions(views=3)) as scene:
        assert all(len(set(noisy.views(scene, n))) == 3 for n in range(20))


def test_a_draw_of_one_view_costs_what_one_view_costs(setup, views):
    every, spread = (
        plan_attribution(views, setup.spec, setup.placement, [OMEGA], method=SmoothGrad(4), views=wanted)
        for wanted in ("all", "spread")
    )
    assert every.backward_passes == 8 * spread.backward_passes
    assert "each draw runs 4 mirrors x 2 folds = 8 networks per window" in every.describe()
    assert "each draw runs 1 of 4 mirrors x 2 folds, drawn at random, = 1 network per window" in spread.describe()


def test_views_that_cannot_be_spread_are_said(setup, views):
    for options, sentence in (
        ({"views": "spread", "target": "probability"}, "not linear in its logits"),
        ({"views": 9}, "at most 8 views"),
        ({"views": "some"}, "found 'some'"),
    ):
        with pytest.raises(InputError, match=sentence):
            plan_attribution(views, setup.spec, setup.placement, [OMEGA], method=Gradient(), **options)


def test_held_statistics_are_each_views_own(setup):
    folds = [
        nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.InstanceNorm3d(3), nn.Softplus(), nn.Conv3d(3, 2, 3, padding=1))
        for _ in range(2)
    ]
    network = FusedViews(folds, (1,)).double().eval()
    method = SmoothGrad(n_samples=2, noise=0.0)
    exact = attribute(network, setup.spec, setup.placement, [OMEGA], method=Gradient())[0]
    split = attribute(network, setup.spec, setup.placement, [OMEGA], method=method, statistics="split")[0]
    assert split.target_mean == pytest.approx(exact.target_mean, abs=1e-12)
    assert np.abs(split.data - exact.data).max() < 1e-13
    assert torch.is_grad_enabled()
