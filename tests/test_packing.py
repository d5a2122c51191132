"""Maps as they are kept: digits that are noise go, what lies near the lesion stays."""

import numpy as np
import pytest

from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.units import Settings
from lesionwise.units.packing import near, rounded


def test_rounding_is_far_below_the_standard_error():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(2, 6, 5, 4)).astype(np.float32)
    se = rng.lognormal(-3, 2, size=data.shape).astype(np.float32)
    found = rounded(data, se)
    assert found.dtype == np.float32
    assert (np.abs(found - data) <= se / 32 * 1.0001).all()
    assert np.array_equal(rounded(found, se), found)
    assert len(np.unique(found)) < data.size


def test_values_by_hand():
    data = np.array([0.30, -0.30, 0.001, 5.0, 5.0], dtype=np.float32).reshape(1, 5, 1, 1)
    se = np.array([1.0, 0.5, 1.0, 0.0, np.nan], dtype=np.float32).reshape(1, 5, 1, 1)
    # steps of 1/16 and 1/32; unknown errors and errors of 0 leave a value alone
    assert rounded(data, se).ravel().tolist() == [0.3125, -0.3125, 0.0, 5.0, 5.0]
    assert rounded(data, None) is data


def test_near_counts_millimetres_along_each_axis():
    voxels = np.array([[10, 10, 10], [11, 10, 10]])
    found = near(Box((0, 0, 0), (40, 12, 40)), voxels, keep_mm=6.0, sizes_mm=(1.0, 1.0, 4.0))
    assert found == Box((4, 4, 8), (18, 12, 13))
    far = near(Box((30, 0, 0), (40, 40, 40)), voxels, keep_mm=6.0, sizes_mm=(1.0, 1.0, 1.0))
    assert far.shape[0] == 1  # nothing of the map lies there: one voxel stays


def test_the_shells_of_the_table_are_kept():
    with pytest.raises(InputError, match="up to 10 mm"):
        Settings(keep_mm=5.0)
    assert Settings(keep_mm=10.0, statistics="split", views=3).run_options().views == 3
    with pytest.raises(InputError, match="auto, exact, split or fixed"):
        Settings(statistics="some")
