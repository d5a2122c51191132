"""Texture of healthy tissue: that it differs between draws and meets what is known."""

import numpy as np
import pytest
from scipy import ndimage

from lesionwise.texture import continued_texture

SHAPE = (30, 30, 30)


def field(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((2, *SHAPE))
    return np.stack([ndimage.gaussian_filter(channel, 1.0) for channel in noise])


def ball(radius: float) -> np.ndarray:
    return np.linalg.norm(np.indices(SHAPE).transpose(1, 2, 3, 0) - 14.5, axis=-1) < radius


@pytest.mark.parametrize("healthy_share", [1.0, 0.8], ids=["donors fit whole", "no donor fits whole"])
def test_draws_differ_from_one_another(healthy_share: float) -> None:
    residual, part = field(0), ball(5)
    known = ball(7) & ~part
    healthy = ~part & (np.random.default_rng(1).random(SHAPE) < healthy_share)
    drawn = [
        continued_texture(residual, part, known, healthy, rng=np.random.default_rng(seed), voxel_mm=(1.0, 1.0, 1.0))
        for seed in range(6)
    ]
    assert len({values.tobytes() for values in drawn}) > 2
    spread = np.std(drawn, axis=0).mean() / residual[:, healthy].std()
    assert spread > 0.3


def test_the_texture_continues_what_is_known() -> None:
    residual, part = field(2), ball(5)
    known = ball(7) & ~part
    rim = part & ndimage.binary_dilation(~part)
    drawn = continued_texture(residual, part, known, ~part, rng=np.random.default_rng(0), voxel_mm=(1.0, 1.0, 1.0))
    truth = residual[:, part]
    near = rim[part]
    error = np.abs(drawn - truth)
    assert error[:, near].mean() < 0.8 * error[:, ~near].mean()
