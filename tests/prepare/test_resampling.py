"""Channels go onto another grid once; thick slices average, masks keep to whole voxels."""

import numpy as np
from heads import motion

from lesionwise.geometry.volume import Volume
from lesionwise.prepare.resampling import mask_onto_grid, onto_grid

AHEAD = motion((0.4, 0.0, 0.0), (0.0, 0.0, 0.0), np.zeros(3))


def ramp(shape=(12, 12, 12), slope=(1.0, 2.0, 3.0)) -> Volume:
    i, j, k = np.indices(shape)
    return Volume((slope[0] * i + slope[1] * j + slope[2] * k)[None].astype(np.float32), np.eye(4), ("T1w",))


def test_nothing_moves_under_the_identity():
    volume = ramp()
    same = onto_grid(volume, np.eye(4), shape=volume.shape, affine=volume.affine)
    np.testing.assert_allclose(same, volume.data[0], atol=1e-3)


def test_a_shift_takes_the_value_from_where_the_motion_points():
    volume = ramp()
    shifted = onto_grid(volume, motion((2.0, 0, 0), (0, 0, 0), np.zeros(3)), shape=(6, 12, 12), affine=np.eye(4))
    np.testing.assert_allclose(shifted[2, 5, 5], volume.data[0, 4, 5, 5], atol=1e-3)


def test_a_thick_slice_is_the_mean_of_the_thin_ones_and_not_the_middle_one():
    data = np.zeros((6, 6, 12), dtype=np.float32)
    data[:, :, 4] = 1.0  # one of the four thin slices 4..7 that make the second thick one
    thick = np.diag([1.0, 1.0, 4.0, 1.0])
    thick[2, 3] = 1.5
    means = onto_grid(Volume(data[None], np.eye(4), ("T1w",)), np.eye(4), shape=(6, 6, 3), affine=thick)
    np.testing.assert_allclose(means[3, 3], data.reshape(6, 6, 3, 4).mean(axis=3)[3, 3], atol=0.05)
    assert means[3, 3, 1] > 0.2


def test_splines_do_not_overshoot_the_brightest_and_darkest_voxel():
    data = np.zeros((1, 10, 10, 10), dtype=np.float32)
    data[0, 5:] = 100.0
    out = onto_grid(
        Volume(data, np.eye(4), ("T1w",)),
        AHEAD,
        shape=(10, 10, 10),
        affine=np.eye(4),
    )
    assert out.min() >= 0.0
    assert out.max() <= 100.0


def test_a_mask_takes_the_nearest_voxel_and_ends_with_its_grid():
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[2, 2, 2] = True
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    moved = mask_onto_grid(mask, np.eye(4), np.eye(4), shape=(12, 12, 12), affine=fine)
    assert moved.any()
    assert set(np.unique(np.argwhere(moved))) <= {3, 4, 5}
    outside = mask_onto_grid(np.ones((5, 5, 5), dtype=bool), np.eye(4), np.eye(4), shape=(8, 5, 5), affine=np.eye(4))
    assert outside[4].all()
    assert not outside[5:].any()
