"""Smooth random fields and blur."""

import numpy as np
import pytest
from scipy import ndimage

from lesionwise.phantom.fields import blur, sheets, smooth_field


def test_smooth_field_has_unit_variance_and_the_asked_width() -> None:
    rng = np.random.default_rng(0)
    field = smooth_field(rng, (60, 60, 60), spacing_vox=4)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 0.1
    assert field.std() == pytest.approx(1.0, abs=0.1)
    near = np.corrcoef(field[:-1].ravel(), field[1:].ravel())[0, 1]
    far = np.corrcoef(field[:-20].ravel(), field[20:].ravel())[0, 1]
    assert near > 0.9
    assert abs(far) < 0.15


def test_blur_equals_scipy_away_from_the_edge() -> None:
    x = np.random.default_rng(1).normal(size=(20, 21, 22)).astype(np.float32)
    ours, theirs = blur(x, (0.8, 1.1, 0.6)), ndimage.gaussian_filter(x, (0.8, 1.1, 0.6), truncate=6)
    inside = (slice(6, -6),) * 3
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=2e-3)
    np.testing.assert_allclose(blur(np.ones_like(x), (2.0, 2.0, 2.0)), 1, rtol=1e-5)


def test_sheets_measure_distance_to_the_zeros_of_a_field() -> None:
    distance = sheets(np.random.default_rng(2), (40, 40, 40), spacing_vox=8)
    true = ndimage.distance_transform_edt(distance > 0.7)
    close = (true > 0) & (true < 3)
    assert (distance >= 0).all()
    assert np.corrcoef(distance[close], true[close])[0, 1] > 0.7
