"""What an affine says about axes."""

import nibabel as nib
import numpy as np
import pytest

from lesionwise.geometry.affine import closest_axes


@pytest.mark.parametrize("seed", range(40))
def test_axes_are_named_as_nibabel_names_them(seed):
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.5, 6, 3) + rng.normal(0, 0.05, (3, 3))
    along, signs = closest_axes(affine)
    expected = nib.io_orientation(affine)
    assert list(along) == expected[:, 0].tolist()
    assert list(signs) == expected[:, 1].tolist()
