"""Grid maps: the adjoint is the adjoint, crops and flips are exact, constants stay constant."""

import nibabel as nib
import numpy as np
import pytest
import torch

from lesionwise.geometry.affine import to_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.grids import AxisMap, on_spacing, reorientation

OBLIQUE = np.array([[0.0, -1.9, 0.2, 5], [1.1, 0.1, 0.3, -7], [0.1, 0.3, 0.9, 3], [0, 0, 0, 1]])
AFFINES = [np.diag([-1.0, 1, 1, 1]), np.diag([-1.2, 2.0, 1.0, 1.0]), OBLIQUE]
SHAPE = (10, 7, 12)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", None])
@pytest.mark.parametrize("spacing_mm", [None, 1.0, 1.7])
def test_adjoint_is_the_transpose(affine, axes, spacing_mm):
    generator = torch.Generator().manual_seed(0)
    for grid_map in on_spacing(affine, SHAPE, axes=axes, spacing_mm=spacing_mm):
        x = torch.randn(2, *grid_map.source_shape, dtype=torch.float64, generator=generator)
        g = torch.randn(2, *grid_map.target_shape, dtype=torch.float64, generator=generator)
        left, right = (grid_map.forward(x) * g).sum(), (x * grid_map.adjoint(g)).sum()
        assert float(abs(left - right)) < 1e-11


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("axes", ["RAS", "LIP", "SAL"])
def test_reorientation_agrees_with_nibabel(affine, axes):
    data = np.random.default_rng(0).normal(size=SHAPE)
    grid_map = reorientation(affine, SHAPE, axes=axes)
    wanted = nib.orientations.axcodes2ornt(axes)
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)
    expected = nib.orientations.apply_orientation(data, change)
    assert np.array_equal(grid_map.forward(torch.from_numpy(data)).numpy(), expected)


@pytest.mark.parametrize("affine", AFFINES)
def test_there_and_back_keeps_constants_and_places(affine):
    there, back = on_spacing(affine, SHAPE, axes="RAS", spacing_mm=1.0)
    ones = torch.ones(SHAPE, dtype=torch.float64)
    assert torch.allclose(back.forward(there.forward(ones)), ones)
    ramps = torch.from_numpy(to_mm(np.argwhere(np.ones(SHAPE)), affine).reshape(*SHAPE, 3).transpose(3, 0, 1, 2))
    moved = back.forward(there.forward(ramps))
    inner = (slice(None), slice(3, -3), slice(3, -3), slice(3, -3))
    assert float((moved - ramps)[inner].abs().max()) < 0.35  # smoothing, never a shift by half a voxel


def test_restriction_gives_the_same_values_from_a_part_of_the_source():
    there, _ = on_spacing(OBLIQUE, SHAPE, axes="RAS", spacing_mm=1.0)
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    box = Box((2, 1, 3), (6, 4, 5))
    part, source = there.restrict(box)
    assert torch.allclose(part.forward(x[(..., *source.slices)]), there.forward(x)[(..., *box.slices)])


def test_support_is_what_a_source_box_can_change():
    there, _ = on_spacing(OBLIQUE, SHAPE, axes="RAS", spacing_mm=1.0)
    box = Box((2, 1, 3), (4, 3, 5))
    x = torch.zeros(SHAPE, dtype=torch.float64)
    x[box.slices] = 1.0
    changed = Box.around(np.argwhere(there.forward(x).numpy() != 0))
    support = there.support(box)
    assert support.union(changed) == support


def test_gathering_maps_are_exact_and_marked():
    flip = AxisMap((np.eye(4)[::-1].copy(), np.eye(5)[1:4], np.eye(3)), (1, 0, 2))
    assert flip.is_gather
    assert not flip.is_identity
    x = torch.arange(60.0).reshape(5, 4, 3)
    assert torch.equal(flip.forward(x), x.permute(1, 0, 2).flip(0)[:, 1:4])
