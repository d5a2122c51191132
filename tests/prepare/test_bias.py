"""The slow change of brightness goes, contrast and level stay."""

import numpy as np
from heads import channel, small_head

from lesionwise.prepare.bias import correct_bias


def test_a_known_field_is_removed_and_the_median_stays():
    head, brain = small_head()
    thick = channel(head, "T1w", every=3)
    clean, affine = thick.data[0], thick.affine
    brain = brain[:, :, : 3 * clean.shape[2]].reshape(*clean.shape, 3).all(axis=3)
    x = np.linspace(-1, 1, clean.shape[0])[:, None, None]
    field = np.exp(0.5 * x).astype(np.float32)
    spoiled = (clean * field).astype(np.float32)
    corrected, ratio = correct_bias(spoiled, affine, brain)
    inside = brain & (clean > 200)
    left = np.polyfit(np.broadcast_to(x, clean.shape)[inside], np.log(corrected / clean)[inside], 1)[0]
    assert abs(left) < 0.15  # of a slope of 0.5
    assert ratio > 1.2
    np.testing.assert_allclose(np.median(corrected[brain]), np.median(spoiled[brain]), rtol=1e-3)
