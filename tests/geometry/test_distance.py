"""The signed distance to the border against a search over every voxel's body."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lesionwise.geometry.distance import depth_mm, distance_to_mm, signed_distance_mm

THICK = (0.9, 0.9, 6.5)


def by_search(mask, sizes):
    """Distance from every voxel centre to the nearest point of any voxel of the mask, one pair at a time."""
    centres = np.argwhere(np.ones(mask.shape)) * np.asarray(sizes)
    found = np.full(len(centres), np.inf)
    for voxel in np.argwhere(mask) * np.asarray(sizes):
        gap = np.maximum(np.abs(centres - voxel) - 0.5 * np.asarray(sizes), 0)
        found = np.minimum(found, np.linalg.norm(gap, axis=1))
    return found.reshape(mask.shape)


def signed_by_search(mask, sizes):
    wide = np.pad(mask, 1)
    inside = by_search(~wide, sizes)[1:-1, 1:-1, 1:-1]
    return np.where(mask, -inside, by_search(mask, sizes))


def test_one_voxel_of_a_thick_slice():
    mask = np.zeros((5, 5, 3), dtype=bool)
    mask[2, 2, 1] = True
    found = signed_distance_mm(mask, THICK)
    assert found[2, 2, 2] == pytest.approx(3.25)  # half a slice beyond the centre, not 6.05
    assert found[3, 2, 1] == pytest.approx(0.45)
    assert found[2, 2, 1] == pytest.approx(-0.45)
    assert found[4, 2, 2] == pytest.approx(np.hypot(1.35, 3.25))
    assert np.allclose(found, signed_by_search(mask, THICK))


def test_inside_and_outside_agree_at_a_face():
    mask = np.zeros((1, 1, 6), dtype=bool)
    mask[..., 3:] = True
    found = signed_distance_mm(np.tile(mask, (9, 9, 1)), (1.0, 1.0, 2.0))[4, 4]
    assert found.tolist() == [5.0, 3.0, 1.0, -1.0, -3.0, -1.0]  # the grid ends there, and the mask with it


@settings(max_examples=40, deadline=None)
@given(
    mask=arrays(bool, (5, 4, 3)),
    sizes=st.tuples(*[st.floats(0.3, 7.0, allow_nan=False)] * 3),
)
def test_any_mask_and_voxel_size_against_a_search(mask, sizes):
    assert np.allclose(signed_distance_mm(mask, sizes), signed_by_search(mask, sizes))


def test_reach_changes_nothing_within_it():
    mask = np.random.default_rng(0).random((12, 11, 9)) > 0.99
    whole = signed_distance_mm(mask, (1.0, 1.2, 3.0))
    near = signed_distance_mm(mask, (1.0, 1.2, 3.0), reach_mm=4.0)
    assert np.array_equal(near[whole <= 4.0], whole[whole <= 4.0])
    assert np.isinf(near[whole > 4.0]).all()
    assert (whole > 4.0).any()
    assert (whole <= 4.0).any()


def test_nothing_is_infinitely_far_and_everything_ends_at_the_grid():
    nothing, everything = np.zeros((3, 3, 3), dtype=bool), np.ones((3, 3, 3), dtype=bool)
    assert np.isinf(distance_to_mm(nothing, THICK)).all()
    assert not depth_mm(nothing, THICK).any()
    assert depth_mm(everything, (2.0, 2.0, 2.0))[1, 1].tolist() == [1.0, 3.0, 1.0]
