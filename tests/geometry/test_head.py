"""The head is found whatever the brain's edge and the background look like."""

import numpy as np
import pytest

from lesionwise.errors import InputError
from lesionwise.geometry.head import check_skull_stripped, find_head
from lesionwise.geometry.volume import Volume
from lesionwise.segmenter import zscore

SHAPE = (60, 60, 60)


def _ellipsoid(radius: float, shape=SHAPE) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    return sum(a**2 for a in axes) <= radius**2


def _brain(rng: np.random.Generator) -> np.ndarray:
    brain, ventricle = _ellipsoid(22), _ellipsoid(6)
    image = np.zeros((2, *SHAPE), dtype=np.float32)
    image[0][brain] = 1000 + 60 * rng.normal(size=int(brain.sum()))
    image[1][brain] = 900 + 120 * rng.normal(size=int(brain.sum()))
    image[0][ventricle], image[1][ventricle] = 120, 300
    return image


def _volume(image: np.ndarray) -> Volume:
    return Volume(image, np.eye(4), ("FLAIR", "T1w"))


def test_clean_brain_is_found_with_its_ventricles():
    head = find_head(_volume(_brain(np.random.default_rng(0))))
    assert np.mean(head == _ellipsoid(22)) > 0.99
    assert head[30, 30, 30]


@pytest.mark.parametrize("spoil", ["rim", "ringing", "noise"])
def test_edge_and_background_do_not_spoil_the_zscore(spoil):
    rng = np.random.default_rng(1)
    clean = _brain(rng)
    dirty = clean.copy()
    outside = ~_ellipsoid(22)
    if spoil == "rim":
        shell = _ellipsoid(26) & outside
        dirty[0][shell], dirty[1][shell] = 150, 380
    elif spoil == "ringing":
        shell = _ellipsoid(24) & outside
        dirty[:, shell] = rng.normal(size=(2, int(shell.sum()))) * 40
    else:
        dirty[:, outside] = np.abs(rng.normal(size=(2, int(outside.sum())))) * 25
    head_clean, head_dirty = find_head(_volume(clean)), find_head(_volume(dirty))
    expected, found = zscore(clean, head_clean), zscore(dirty, head_dirty)
    core = _ellipsoid(20)
    assert np.abs(found - expected)[:, core].max() < 0.15


def test_skull_is_refused_by_name_of_the_option():
    shape = (190, 190, 190)
    head = _ellipsoid(85, shape)
    image = Volume(head[None].astype(np.float32), np.eye(4), ("FLAIR",))
    with pytest.raises(InputError, match="--brain-mask"):
        check_skull_stripped(head, image, what="scan.nii.gz")


def test_black_image_is_refused():
    with pytest.raises(InputError, match="found none in the channel FLAIR"):
        find_head(_volume(np.zeros((2, *SHAPE), dtype=np.float32)))
