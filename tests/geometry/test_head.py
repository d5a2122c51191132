"""The head is found whatever the brain's edge and the background look like."""

import numpy as np
import pytest

from lesionwise.errors import InputError
from lesionwise.geometry.head import bright_edge, check_skull_stripped, dark_gap, find_head, head_notes
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


WIDE = (120, 120, 24)
"""A slab of 2 mm voxels, as large as a head across."""


def _shell(outer_mm: float, inner_mm: float = 0.0) -> np.ndarray:
    """A tube along the third axis, in mm around the middle."""
    i, j, _ = np.meshgrid(*[2.0 * (np.arange(n) - (n - 1) / 2) for n in WIDE], indexing="ij")
    radius = np.hypot(i, j)
    return (radius <= outer_mm) & (radius > inner_mm)


def _slab(*channels: str, skull: bool, fluid_mm: float = 3.0) -> Volume:
    """A brain of 65 mm, a rim of fluid around it, and with `skull` bone to 80 mm and a scalp to 88 mm."""
    rng = np.random.default_rng(0)
    images = []
    for _ in channels:
        data = np.where(_shell(65), 800.0, 0.0) + np.where(_shell(65 + fluid_mm, 65), 200.0, 0.0)
        if skull:
            data += np.where(_shell(80, 65 + fluid_mm), 60.0, 0.0) + np.where(_shell(88, 80), 1100.0, 0.0)
        images.append((data * (1 + 0.05 * rng.normal(size=WIDE))).astype(np.float32))
    return Volume(np.stack(images), np.diag([2.0, 2.0, 2.0, 1.0]), channels)


@pytest.mark.parametrize("channels", [("FLAIR",), ("T1w",), ("FLAIR", "T1w")])
def test_a_skull_is_recognised_by_the_bone_below_the_scalp(channels):
    with_skull, without = _slab(*channels, skull=True), _slab(*channels, skull=False)
    assert dark_gap(without) < 0.02
    assert dark_gap(with_skull) > 0.5
    head = find_head(with_skull)
    assert head.sum() * 8 / 1000 < 2300  # its volume says nothing
    with pytest.raises(InputError, match=r"found a skull.*--brain-mask.*--prepare"):
        check_skull_stripped(head, with_skull, what="scan.nii.gz")
    check_skull_stripped(find_head(without), without, what="scan.nii.gz")


def test_a_loose_rim_of_fluid_is_no_skull():
    assert dark_gap(_slab("FLAIR", "T1w", skull=False, fluid_mm=7.0)) < 0.15


def test_thick_slices_and_other_orders_of_axes_see_the_same_skull():
    whole = _slab("FLAIR", skull=True)
    turned = Volume(np.moveaxis(whole.data, 3, 1), whole.affine[:, [2, 0, 1, 3]], whole.channels)
    thick = Volume(whole.data[..., ::3], np.diag([2.0, 2.0, 6.0, 1.0]), whole.channels)
    for other in (turned, thick):
        assert dark_gap(other) == pytest.approx(dark_gap(whole), abs=0.02)


def test_small_objects_are_not_judged():
    assert dark_gap(_volume(_brain(np.random.default_rng(0)))) == 0.0


def test_a_brain_that_ends_in_tissue_was_cut():
    image = _slab("FLAIR", "T1w", skull=False)
    signal = np.any(image.data != 0, axis=0)
    assert bright_edge(signal, image) < 0.1
    cut = Volume(image.data * _shell(58), image.affine, image.channels)
    assert bright_edge(np.any(cut.data != 0, axis=0), cut) > 0.9
    assert head_notes(signal, image, given=False) == []
    (note,) = head_notes(_shell(58), cut, given=False)
    assert "cut into the brain" in note
    assert "The given brain mask seems to cut" in head_notes(_shell(58), image, given=True)[0]


def test_channels_stripped_differently_are_told():
    image = _slab("FLAIR", "T1w", skull=False)
    loose = image.data.copy()
    loose[1][_shell(80, 68)] = 150
    (note,) = head_notes(_shell(65), Volume(loose, image.affine, image.channels), given=False)
    assert note.startswith("The heads of FLAIR and T1w differ:")
