import numpy as np
import torch
from scipy import ndimage

from lesionwise.asking.healed import Healed
from lesionwise.geometry.box import Box

SHAPE = (40, 40, 40)


def made(seed=0):
    """Two bright balls in noisy tissue, and the scan without them."""
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0)
    balls = [np.linalg.norm(grid - at, axis=-1) < 4 for at in ((10, 10, 10), (28, 28, 28))]
    noise = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    image = torch.from_numpy(noise + np.float32(20) * np.logical_or(*balls))
    return image, balls, Healed.of(image, balls[0] | balls[1], ~(balls[0] | balls[1]), sizes_mm=(1, 1, 1), seed=seed)


def test_only_lesions_that_meet_the_box_are_painted_and_nothing_else_changes():
    image, (first, second), healed = made()
    found = healed.within(Box((0, 0, 0), (20, 20, 20))).numpy()
    assert healed.done == {1}
    assert np.abs(found[:, first[:20, :20, :20]]).max() < 8
    assert np.abs(healed.painted[:, second]).min() > 8
    outside = ~ndimage.binary_dilation(first)
    np.testing.assert_array_equal(healed.painted[:, outside], image.numpy()[:, outside])


def test_a_lesion_is_painted_alike_whatever_was_asked_before():
    whole = Box.whole(SHAPE)
    _, _, one = made()
    _, _, other = made()
    other.within(Box((25, 25, 25), (32, 32, 32)))
    torch.testing.assert_close(one.within(whole), other.within(whole), rtol=0, atol=0)
    assert len({made(seed)[2].within(whole).numpy().tobytes() for seed in range(4)}) > 1
