"""The plan measures on a lesion of usual size, not on the one that fills its window."""

import pytest

from lesionwise.attribution.engine.plan import usual


@pytest.mark.parametrize(("sizes", "place"), [([13000, 5, 90], 2), ([13000, 5], 1), ([7], 0), ([4, 3, 2, 1], 2)])
def test_a_lesion_of_median_size_is_measured(sizes, place):
    assert usual(sizes) == place
