"""Gradient and SmoothGrad against finite differences, autograd through MONAI's fused output, and closed forms."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from lesionwise.attribution import TARGETS, Gradient, InputTimesGradient, Session, SmoothGrad, attribute
from lesionwise.attribution.engine.draws import Noisy
from lesionwise.attribution.engine.noise import spread
from lesionwise.attribution.engine.options import RunOptions
from lesionwise.attribution.engine.scene import Scene
from lesionwise.errors import InputError, UnsupportedModelError
from lesionwise.geometry.box import Box

from ..conftest import OBLIQUE, OMEGA, place, random_scan, small_network, small_spec

ELSEWHERE = np.array([[2, 3, 2], [2, 3, 3], [2, 4, 3]])


def full(attribution, shape):
    out = np.zeros((attribution.data.shape[0], *shape))
    out[(slice(None), *attribution.box.slices)] = attribution.data
    return out


def value_at(network, spec, placement, scan, voxels, target, noise=None):
    """y[v] the straightforward way: scan -> network's grid -> MONAI's inferer -> scan's grid -> target."""
    x = placement.to_network.forward(scan)[None]
    x = x if noise is None else x + noise
    fused = sliding_window_inference(
        x, spec.window, 2, network, overlap=spec.overlap, mode="gaussian", sigma_scale=spec.sigma_scale
    )[0]
    z = placement.to_scan.forward(fused)[(slice(None), *voxels.T)]
    k = spec.lesion_class
    p = torch.sigmoid(z[k]) if spec.activation == "sigmoid" else torch.softmax(z, dim=0)[k]
    return {"logit": z[k], "probability": p, "log_odds": torch.log(p) - torch.log1p(-p)}[target]


def reference(network, spec, placement, scan, voxels, target, *, reduce="mean", noises=(None,)):
    """Autograd through the whole fused volume, one draw after another."""
    scale = placement.scale.reshape(-1, 1, 1, 1)
    total = torch.zeros_like(scan)
    for noise in noises:
        leaf = scan.clone().requires_grad_(True)
        y = value_at(network, spec, placement, leaf, voxels, target, noise)
        if reduce == "mean":
            total += torch.autograd.grad(y.mean(), leaf)[0]
            continue
        each = torch.stack([torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in y])
        total += torch.gather(each, 0, each.abs().argmax(dim=0, keepdim=True))[0]
    return (total / len(noises) * scale).numpy()


def noises_of(spec, placement, method, seed=0):
    """The noise volumes that a method adds."""
    sigma = spread(placement.input[0], placement.head, noise=method.noise)
    draws = Noisy(tuple(sigma.tolist()), method.n_samples, placement.head, method.pairs)
    with Scene.open(nn.Identity(), spec, placement, RunOptions(seed=seed)) as scene:
        windows = [[draws.window(scene, n, w) for w in range(len(scene.grid.boxes))] for n in range(draws.count)]
        volumes = []
        for own in windows:
            noisy = scene.padded.clone()
            for w, box in enumerate(scene.grid.boxes):
                noisy[(slice(None), *box.slices)] = own[w]
            volumes.append(scene.grid.unpad(noisy)[None] - placement.input)
    return volumes


PLACEMENTS = {
    "identity": (None, None),
    "flipped": (np.diag([-1.0, 1, 1, 1])[[0, 2, 1, 3]], None),
    "resampled": (OBLIQUE, 1.2),
}
HEADS = {
    "two classes": (2, {}),
    "four classes": (4, {"classes": 4, "lesion_class": 2}),
    "sigmoid": (1, {"classes": 1, "lesion_class": 0, "activation": "sigmoid"}),
}


def every_pair():
    """Cases in which each two choices of placement, head and target meet once, with the mean and the max in turn."""
    for i, where in enumerate(PLACEMENTS):
        for j, head in enumerate(HEADS):
            yield where, head, tuple(TARGETS)[(i + j) % len(TARGETS)], ("mean", "max")[(i + 2 * j) % 2]


@pytest.mark.parametrize(("where", "head", "target", "reduce"), every_pair())
def test_windowed_equals_autograd_through_monais_fused_output(where, head, target, reduce):
    outputs, changes = HEADS[head]
    network, spec, scan = small_network(outputs=outputs), small_spec(**changes), random_scan()
    affine, spacing_mm = PLACEMENTS[where]
    placement = place(scan, affine=affine, spacing_mm=spacing_mm)
    method = SmoothGrad(n_samples=2, reduce=reduce, max_voxels=None)
    found = attribute(network, spec, placement, [OMEGA], method=method, target=target)[0]
    expected = reference(
        network,
        spec,
        placement,
        scan,
        found_order(OMEGA),
        target,
        reduce=reduce,
        noises=noises_of(spec, placement, method),
    )
    assert np.abs(expected).max() > 1e-4
    assert np.abs(full(found, scan.shape[1:]) - expected).max() < 1e-12
    y = value_at(network, spec, placement, scan, OMEGA, target)
    assert found.target_mean == pytest.approx(float(y.detach().mean()), abs=1e-12)


def found_order(voxels):
    return np.unique(voxels, axis=0)


@pytest.mark.parametrize("target", TARGETS)
def test_gradient_equals_finite_differences(setup, target):
    found = full(
        attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=Gradient(), target=target)[0],
        setup.scan.shape[1:],
    )
    step = 1e-5
    for place_ in [(0, 8, 7, 6), (1, 8, 7, 6), (0, 5, 6, 6), (1, 9, 9, 7)]:
        moved = []
        for sign in (1, -1):
            scan = setup.scan.clone()
            scan[place_] += sign * step
            with torch.no_grad():
                moved.append(float(value_at(setup.network, setup.spec, setup.placement, scan, OMEGA, target).mean()))
        expected = (moved[0] - moved[1]) / (2 * step) * float(setup.placement.scale[place_[0]])
        assert found[place_] == pytest.approx(expected, abs=1e-9)


def test_one_noiseless_sample_is_the_gradient(setup):
    for reduce in ("mean", "max"):
        omega = OMEGA if reduce == "mean" else OMEGA[:1]
        smooth = attribute(
            setup.network,
            setup.spec,
            setup.placement,
            [omega],
            method=SmoothGrad(n_samples=1, noise=0.0, reduce=reduce),
        )[0]
        plain = attribute(setup.network, setup.spec, setup.placement, [omega], method=Gradient())[0]
        assert np.array_equal(smooth.data, plain.data)
        assert np.array_equal(smooth.peak, plain.peak)


def test_saliency_of_a_linear_network_is_its_weights():
    network = nn.Conv3d(2, 2, 3, padding=1).double().eval()
    scan = random_scan()
    placement, spec = place(scan), small_spec(overlap=0.5)
    voxel = np.array([[8, 7, 6]])
    for method in (Gradient(), SmoothGrad(n_samples=3), SmoothGrad(n_samples=3, reduce="max")):
        found = attribute(network, spec, placement, [voxel], method=method)[0]
        weights = (network.weight[1] - network.weight[0]).detach().numpy() * np.array([1.0, 0.7])[:, None, None, None]
        # fused by windows whose borders may cut the kernel: only windows that hold the whole kernel give it unchanged
        expected = reference(network, spec, placement, scan, voxel, "log_odds")
        assert np.abs(full(found, scan.shape[1:]) - expected).max() < 1e-12
    one = small_spec(window=(17, 14, 13))
    found = attribute(network, one, placement, [voxel], method=SmoothGrad(n_samples=3))[0]
    assert found.box == Box((7, 6, 5), (10, 9, 8))
    assert np.abs(found.data - weights).max() < 1e-14
    assert np.abs(found.se).max() < 1e-14


def test_a_channel_that_the_network_does_not_read_has_a_zero_map():
    inner = small_network(channels=1)
    network = ReadsFirstChannel(inner).double().eval()
    scan = random_scan()
    found = attribute(network, small_spec(), place(scan), [OMEGA], method=SmoothGrad(n_samples=2))[0]
    assert np.abs(found.data[0]).max() > 0
    assert not found.data[1].any()
    assert found.peak[1] == found.trough[1] == 0


class ReadsFirstChannel(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x[:, :1])


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("target", ["log_odds", "probability"])
def test_grouping_order_and_batch_do_not_change_a_map(setup, reduce, target):
    method = SmoothGrad(n_samples=3, reduce=reduce)

    def maps(sets, **options):
        return attribute(
            setup.network, setup.spec, setup.placement, sets, method=method, target=target, seed=7, **options
        )

    together = maps([OMEGA, ELSEWHERE])
    swapped = maps([ELSEWHERE, OMEGA[::-1].copy()])[::-1]
    alone = [maps([OMEGA])[0], maps([ELSEWHERE])[0]]
    for a, b, c in zip(together, swapped, alone, strict=True):
        assert np.allclose(a.data, b.data, atol=1e-14)
        assert np.allclose(a.data, c.data, atol=1e-14)
        assert np.allclose(a.se, c.se, atol=1e-14)
    assert not np.allclose(maps([OMEGA])[0].data, attribute(
        setup.network, setup.spec, setup.placement, [OMEGA], method=method, target=target, seed=8)[0].data)  # fmt: skip


def test_instances_beyond_the_receptive_field_do_not_influence_one_another():
    scan = random_scan((30, 12, 12))
    network, spec = small_network(), small_spec(window=(30, 12, 12))
    left, right = np.array([[5, 6, 6]]), np.array([[24, 6, 6]])
    other = scan.clone()
    other[:, 20:] += 1.0
    method = Gradient()
    maps = [attribute(network, spec, place(s), [left, right], method=method) for s in (scan, other)]
    assert np.array_equal(maps[0][0].data, maps[1][0].data)
    assert not np.allclose(maps[0][1].data, maps[1][1].data)
    assert maps[0][0].box.stop[0] <= 9


@pytest.mark.slow
def test_doubling_the_samples_changes_only_the_standard_error(setup):
    few, many = (
        attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=SmoothGrad(n_samples=n, noise=0.2))[0]
        for n in (50, 100)
    )
    inside = few.se > np.percentile(few.se, 90)
    assert np.median(few.se[inside] / many.se[inside]) == pytest.approx(np.sqrt(2), rel=0.12)
    z = (few.data - many.data)[inside] / few.se[inside]
    assert np.sqrt(np.mean(z**2)) == pytest.approx(np.sqrt(0.5), rel=0.25)  # they share half their draws


def test_input_times_gradient_sums_to_the_target_of_a_linear_network():
    network = nn.Conv3d(2, 2, 3, padding=1, bias=False).double().eval()
    scan = random_scan()
    for affine, spacing_mm in PLACEMENTS.values():
        found = attribute(
            network,
            small_spec(),
            place(scan, affine=affine, spacing_mm=spacing_mm),
            [OMEGA],
            method=InputTimesGradient(),
        )[0]
        assert float(found.data.sum()) == pytest.approx(found.target_mean, abs=1e-12)


def test_antithetic_pairs_cancel_the_odd_part(setup):
    method = SmoothGrad(n_samples=20, antithetic=True, noise=0.01)
    independent = SmoothGrad(n_samples=20, antithetic=False, noise=0.01)
    plain = attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=independent)[0]
    paired = attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=method)[0]
    assert np.nanmax(paired.se) < 0.2 * np.nanmax(plain.se)
    assert paired.details["antithetic"] is True
    assert SmoothGrad(n_samples=20).pairs
    assert not any(SmoothGrad(n_samples=n).pairs for n in (1, 14, 51))


def test_tolerance_stops_a_lesion_and_says_so(setup):
    easy = SmoothGrad(n_samples=60, tolerance=0.5)
    hard = SmoothGrad(n_samples=20, tolerance=1e-9)
    found = attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=easy)[0]
    assert found.converged is True
    assert found.n_samples < 60
    found = attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=hard)[0]
    assert found.converged is False
    assert found.n_samples == 20


def test_max_over_a_subset_names_it_and_does_not_depend_on_order(setup):
    method = SmoothGrad(n_samples=1, reduce="max", max_voxels=2)
    a = attribute(setup.network, setup.spec, setup.placement, [OMEGA], method=method, seed=3)[0]
    b = attribute(setup.network, setup.spec, setup.placement, [OMEGA[::-1].copy()], method=method, seed=3)[0]
    assert len(a.details["voxels"]) == 2
    assert a.details == b.details
    assert np.array_equal(a.data, b.data)
    assert a.sign_flip_fraction is not None
    assert all(0 <= f <= 1 for f in a.sign_flip_fraction)


def test_the_network_is_left_as_found_also_after_an_error(setup):
    network = setup.network.train()
    network[0].weight.requires_grad_(False)
    before = [(p.requires_grad, p.grad) for p in network.parameters()]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attribute(network, setup.spec, setup.placement, [OMEGA], method=Gradient(), progress_fn=stop)
    attribute(network, setup.spec, setup.placement, [OMEGA], method=Gradient())
    assert [(p.requires_grad, p.grad) for p in network.parameters()] == before
    assert all(module.training for module in network.modules())
    assert not setup.placement.input.requires_grad


def test_batch_statistics_are_refused_in_one_sentence(setup):
    broken = nn.Sequential(nn.BatchNorm3d(2, track_running_stats=False)).double().eval()
    with pytest.raises(UnsupportedModelError, match="batch normalisation"):
        attribute(broken, setup.spec, setup.placement, [OMEGA], method=Gradient())


def test_a_network_in_training_mode_is_explained_as_it_predicts(setup):
    network = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.BatchNorm3d(2)).double().eval()
    run = {"method": Gradient()}
    expected = attribute(network, setup.spec, setup.placement, [OMEGA], **run)[0]
    before = network[1].running_mean.clone()
    found = attribute(network.train(), setup.spec, setup.placement, [OMEGA], **run)[0]
    assert np.array_equal(found.data, expected.data)
    assert torch.equal(network[1].running_mean, before)
    assert network[1].training


@pytest.mark.parametrize(
    ("voxels", "sentence"),
    [(np.zeros((0, 3), dtype=int), "no voxels"), (np.array([[99, 0, 0]]), "outside the scan")],
)
def test_impossible_instances_are_refused(setup, voxels, sentence):
    with pytest.raises(InputError, match=sentence):
        attribute(setup.network, setup.spec, setup.placement, [voxels], method=Gradient())


def test_a_scan_smaller_than_the_window():
    scan = random_scan((7, 6, 5))
    network, spec, placement = small_network(), small_spec(), place(scan)
    omega = np.array([[0, 0, 0], [3, 3, 2]])
    method = SmoothGrad(n_samples=2)
    found = attribute(network, spec, placement, [omega], method=method)[0]
    expected = reference(network, spec, placement, scan, omega, "log_odds", noises=noises_of(spec, placement, method))
    assert np.abs(full(found, scan.shape[1:]) - expected).max() < 1e-12


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_progress_starts_with_the_first_window_and_reaches_its_total(setup, reduce):
    seen, run = [], []
    counted = setup.network.register_forward_hook(lambda *_: run.append(len(seen)))
    method = SmoothGrad(n_samples=3, reduce=reduce)
    opened = Session.open(setup.network, setup.spec, setup.placement, [OMEGA, ELSEWHERE], method)
    with opened as session:
        plan = session.plan()
        run.clear()
        list(session.stream(plan, progress_fn=lambda done, total: seen.append((done, total))))
    counted.remove()
    assert run.count(0) == 1  # after one window something is told, and so on
    assert [done == total for done, total in seen] == [False] * (len(seen) - 1) + [True]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
