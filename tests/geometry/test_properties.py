"""Laws of boxes, grid maps and windows that hold for any of them, on examples that nobody chose."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionwise.geometry.box import Box
from lesionwise.geometry.grids import compose, on_spacing, reorientation
from lesionwise.windows import WindowGrid

EXAMPLES = settings(max_examples=60, deadline=None)
SHAPES = st.tuples(*[st.integers(2, 9)] * 3)
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.9, 1.0, 1.7, 6.5])] * 3)


@st.composite
def boxes(draw):
    start = draw(st.tuples(*[st.integers(-5, 12)] * 3))
    size = draw(st.tuples(*[st.integers(0, 8)] * 3))
    return Box(start, tuple(a + n for a, n in zip(start, size, strict=True)))


@st.composite
def affines(draw):
    """Any axis order and direction, any voxel sizes, a small tilt."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    sizes = draw(SPACINGS)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * (np.array(signs) * np.array(sizes))
    angle = draw(st.floats(-0.2, 0.2))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = draw(st.tuples(*[st.floats(-50, 50)] * 3))
    return affine


@EXAMPLES
@given(boxes(), boxes(), boxes())
def test_intersection_and_union_of_boxes(a, b, c):
    both = a.intersection(b)
    swapped = b.intersection(a)
    assert both.is_empty == swapped.is_empty
    if not both.is_empty:
        assert both == swapped
        assert a.intersection(both) == both
        assert not a.union(b).intersection(both).is_empty
    assert a.union(b) == b.union(a)
    assert a.union(b).union(c) == a.union(b.union(c))
    assert a.relative_to(b).shifted(b.start) == a


@EXAMPLES
@given(boxes())
def test_a_box_around_voxels_holds_each_and_touches_all_its_faces(box):
    if box.is_empty:
        return
    voxels = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True)]), -1).reshape(
        -1, 3
    )
    assert Box.around(voxels) == box


@EXAMPLES
@given(affines(), SHAPES, st.sampled_from([None, 1.0, 2.0]), st.integers(0, 10_000))
def test_a_map_to_another_grid_and_its_adjoint_agree(affine, shape, spacing, seed):
    to_network, to_scan = on_spacing(affine, shape, axes="RAS", spacing_mm=spacing)
    rng = torch.Generator().manual_seed(seed)
    for grid_map in (to_network, to_scan):
        x = torch.randn(grid_map.source_shape, generator=rng, dtype=torch.float64)
        g = torch.randn(grid_map.target_shape, generator=rng, dtype=torch.float64)
        # <R x, g> = <x, R^T g> for every x and g
        assert torch.allclose((grid_map.forward(x) * g).sum(), (x * grid_map.adjoint(g)).sum(), rtol=1e-9, atol=1e-9)


@EXAMPLES
@given(affines(), SHAPES, st.integers(0, 10_000))
def test_reorientation_only_moves_voxels_and_comes_back(affine, shape, seed):
    turned = reorientation(affine, shape, axes="RAS")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = turned.forward(x)
    assert torch.equal(y.flatten().sort().values, x.flatten().sort().values)
    assert torch.equal(turned.adjoint(y), x)


@EXAMPLES
@given(affines(), SHAPES, st.integers(0, 10_000))
def test_restricting_a_map_gives_the_same_numbers_on_the_box(affine, shape, seed):
    grid_map, _ = on_spacing(affine, shape, axes="RAS", spacing_mm=1.5)
    rng = np.random.default_rng(seed)
    start = [int(rng.integers(0, n)) for n in grid_map.target_shape]
    stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, grid_map.target_shape, strict=True)]
    box = Box(tuple(start), tuple(stop))
    small, source = grid_map.restrict(box)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.allclose(small.forward(x[source.slices]), grid_map.forward(x)[box.slices], atol=1e-12)


@EXAMPLES
@given(affines(), SHAPES)
def test_composing_with_the_identity_changes_nothing(affine, shape):
    first = reorientation(affine, shape, axes="RAS")
    x = torch.arange(float(np.prod(shape)), dtype=torch.float64).reshape(shape)
    identity = type(first).identity(first.target_shape)
    assert torch.equal(compose(first, identity).forward(x), first.forward(x))


@EXAMPLES
@given(
    st.tuples(*[st.integers(1, 23)] * 3),
    st.tuples(*[st.integers(2, 9)] * 3),
    st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    st.sampled_from(["gaussian", "constant"]),
    st.sampled_from(["monai", "nnunet"]),
)
def test_windows_cover_every_voxel_and_their_weights_add_up_to_one(shape, window, overlap, blending, placement):
    grid = WindowGrid.over(shape, window=window, overlap=overlap, blending=blending, placement=placement)
    total = torch.zeros(grid.padded_shape, dtype=torch.float64)
    for n, box in enumerate(grid.boxes):
        assert box.shape == window
        total[box.slices] += grid.weight(n)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-9)
    x = torch.randn(shape)
    assert torch.equal(grid.unpad(grid.pad(x)), x)
