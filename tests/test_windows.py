"""Windows lie where MONAI's and nnU-Net's do, and fuse as theirs."""

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import sliding_window_inference
from torch import nn

from lesionwise.geometry.box import Box
from lesionwise.windows import WindowGrid, importance_map, monai_starts, nnunet_starts, predict


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv3d(4, 3, 3, padding=1)).double()


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("shape", "window"),
    [((20, 23, 17), (12, 12, 12)), ((9, 30, 12), (12, 10, 12)), ((5, 6, 7), (8, 9, 10)), ((13, 11, 16), (13, 8, 5))],
)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_fused_logits_equal_monai(blending, shape, window, overlap):
    network, x = _network(), torch.randn(1, 2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    grid = WindowGrid.over(shape, window=window, overlap=overlap, blending=blending)
    with torch.no_grad():
        expected = sliding_window_inference(x, window, 3, network, overlap=overlap, mode=blending, sigma_scale=0.125)[0]
    for batch in (1, 4):
        assert torch.allclose(predict(network, x, grid, batch=batch), expected, atol=1e-12)


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize(("window", "sigma"), [((12, 9, 16), 0.125), ((5, 6, 1), 0.25), ((96, 96, 96), 0.125)])
def test_importance_is_monais_to_the_last_bit(blending, window, sigma):
    expected = compute_importance_map(window, mode=blending, sigma_scale=sigma)
    assert torch.equal(importance_map(window, blending, sigma), expected)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.75, 0.99])
def test_windows_start_where_monais_do(overlap):
    rng = np.random.default_rng(0)
    for _ in range(100):
        window = tuple(int(n) for n in rng.integers(1, 24, 3))
        shape = tuple(n + int(more) for n, more in zip(window, rng.integers(0, 40, 3), strict=True))
        interval = [n if n == w else max(int(w * (1 - overlap)), 1) for n, w in zip(shape, window, strict=True)]
        expected = dense_patch_slices(shape, window, interval)
        assert monai_starts(shape, window, overlap) == [tuple(one.start for one in box) for box in expected]


def test_only_windows_that_meet_a_lesion_are_needed_for_its_logits():
    network, x = _network(), torch.randn(1, 2, 25, 20, 18, dtype=torch.float64)
    grid = WindowGrid.over((25, 20, 18), window=(10, 10, 10), overlap=0.25)
    voxels = np.array([[12, 9, 9], [13, 9, 9], [13, 10, 8]])
    some = grid.meeting_voxels(voxels)
    assert 0 < len(some) < len(grid.boxes)
    whole, part = predict(network, x, grid), predict(network, x, grid, only=some)
    i, j, k = voxels.T
    assert torch.allclose(whole[:, i, j, k], part[:, i, j, k], atol=1e-12)


def test_weights_sum_to_one_everywhere():
    grid = WindowGrid.over((21, 9, 14), window=(8, 10, 8), overlap=0.3)
    total = torch.zeros(grid.padded_shape, dtype=torch.float64)
    for n, box in enumerate(grid.boxes):
        total[box.slices] += grid.weight(n)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-14)


def test_windows_meeting_a_box_are_those_that_share_a_voxel():
    grid = WindowGrid.over((24, 24, 24), window=(8, 8, 8), overlap=0.0)
    assert [grid.boxes[n].start for n in grid.meeting(Box((7, 0, 0), (9, 1, 1)))] == [(0, 0, 0), (8, 0, 0)]


def test_nnunet_starts_equal_its_own():
    compute = pytest.importorskip("nnunetv2.inference.sliding_window_prediction").compute_steps_for_sliding_window
    for shape, window, overlap in [((60, 47, 91), (32, 32, 32), 0.5), ((32, 32, 40), (32, 24, 16), 0.25)]:
        a, b, c = compute(shape, window, 1 - overlap)
        assert nnunet_starts(shape, window, overlap) == [(i, j, k) for i in a for j in b for k in c]
