import numpy as np
import pytest
from scipy import ndimage

from lesionwise.inpainting import _by_depth, inpaint, local_mean

ONE = (1.0, 1.0, 1.0)
SHAPE = (28, 28, 28)


def ball(centre, radius, shape=SHAPE):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return ((grid - np.asarray(centre)) ** 2).sum(-1) <= radius**2


def textured(seed=0, spread=(0.1, 0.05), smooth=1.0):
    """Healthy tissue of two channels (means 1 and 3) whose textures agree in part."""
    rng = np.random.default_rng(seed)
    a, b = (ndimage.gaussian_filter(rng.standard_normal(SHAPE), smooth) for _ in range(2))
    a, b = a / a.std(), b / b.std()
    b = 0.8 * a + 0.6 * b
    return np.stack([1.0 + spread[0] * a, 3.0 + spread[1] * b]).astype(np.float32)


def test_outside_the_mask_nothing_changes_and_the_input_is_untouched():
    image, mask = textured(), ball((14, 14, 14), 4)
    before = image.copy()
    filled = inpaint(image, mask, healthy=~mask, rng=np.random.default_rng(0), voxel_sizes_mm=ONE)
    assert np.array_equal(image, before)
    assert np.array_equal(filled[:, ~mask], image[:, ~mask])
    assert filled.dtype == np.float32
    assert (filled[:, mask] != image[:, mask]).all()


def test_the_lesion_itself_has_no_influence():
    image, mask = textured(), ball((14, 14, 14), 4)
    other = image.copy()
    other[:, mask] = 99.0
    a, b = (
        inpaint(x, mask, healthy=np.ones(SHAPE, bool), rng=np.random.default_rng(0), voxel_sizes_mm=ONE)
        for x in (image, other)
    )
    assert np.array_equal(a, b)


def test_a_linear_image_is_continued_exactly_by_the_harmonic_fill():
    i, j, k = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    image = (0.3 * i - 0.1 * j + 0.05 * k)[None].astype(np.float32)
    mask = ball((14, 13, 15), 5)
    broken = np.where(mask, 50.0, image).astype(np.float32)
    assert np.allclose(inpaint(broken, mask, voxel_sizes_mm=(1.0, 2.0, 0.5)), image, atol=1e-4)


def test_harmonic_fill_solves_laplace_with_anisotropic_voxels():
    image, mask = textured(), ball((14, 14, 14), 3)
    h = (1.0, 2.0, 0.5)
    filled = inpaint(image, mask, voxel_sizes_mm=h).astype(float)
    laplace = sum((np.roll(filled, 1, a + 1) + np.roll(filled, -1, a + 1) - 2 * filled) / h[a] ** 2 for a in range(3))
    assert np.abs(laplace[:, mask]).max() < 1e-4


def test_filled_tissue_has_the_mean_spread_and_agreement_of_healthy_tissue():
    mask = ball((14, 14, 14), 7)
    image = textured()
    healthy = ~ndimage.binary_dilation(mask)
    lesioned = image.copy()
    lesioned[0][mask] += 2.0
    lesioned[1][mask] -= 1.0
    core = ndimage.binary_erosion(mask, iterations=2)
    means, spreads, agreements = [], [], []
    for seed in range(8):
        filled = inpaint(lesioned, mask, healthy=healthy, rng=np.random.default_rng(seed), voxel_sizes_mm=ONE)
        means.append(filled[:, core].mean(axis=1))
        spreads.append(filled[:, core].std(axis=1))
        agreements.append(np.corrcoef(filled[:, core])[0, 1])
    assert np.mean(means, axis=0) == pytest.approx([1.0, 3.0], abs=0.05)
    assert np.mean(spreads, axis=0) == pytest.approx([0.1, 0.05], rel=0.25)
    assert np.mean(agreements) == pytest.approx(0.8, abs=0.15)


def test_the_texture_is_as_smooth_as_the_tissue_around():
    mask = ball((14, 14, 14), 7)
    for smooth in (0.6, 1.5):
        image = textured(smooth=smooth)
        filled = inpaint(image, mask, healthy=~mask, rng=np.random.default_rng(1), voxel_sizes_mm=ONE)
        core = np.s_[0, 9:20, 9:20, 9:20]

        def neighbour_correlation(x):
            return np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1]

        assert neighbour_correlation(filled[core]) == pytest.approx(neighbour_correlation(image[0]), abs=0.15)


def test_the_seam_leaves_no_step():
    """Steps across the border are no larger than steps between neighbours elsewhere, though the lesion was 20 sd."""
    image, mask = textured(), ball((14, 14, 14), 6)
    lesioned = image.copy()
    lesioned[:, mask] += 2.0
    filled = inpaint(lesioned, mask, healthy=~mask, rng=np.random.default_rng(3), voxel_sizes_mm=ONE)
    across = mask[1:] != mask[:-1]
    step = np.abs(np.diff(filled[0], axis=0))
    assert step[across].mean() < 1.25 * step[~across].mean()


def test_beside_the_ventricle_csf_does_not_bleed_in():
    """Half the border is CSF (0): the fill is white matter (1) beyond the seam, where a harmonic fill would sink."""
    image = np.ones((1, *SHAPE), dtype=np.float32)
    image[:, :14] = 0.0
    mask = ball((14, 14, 14), 6) & (image[0] == 1)
    healthy = (image[0] == 1) & ~mask
    with_tissue, harmonic = (
        inpaint(image, mask, healthy=healthy, voxel_sizes_mm=ONE),
        inpaint(image, mask, voxel_sizes_mm=ONE),
    )
    centre = (0, 16, 14, 14)
    assert with_tissue[centre] > 0.95
    assert harmonic[centre] < 0.9


def test_without_a_generator_it_is_smooth_and_with_one_seeded():
    image, mask = textured(), ball((14, 14, 14), 5)
    smooth = inpaint(image, mask, healthy=~mask, voxel_sizes_mm=ONE)
    assert np.array_equal(smooth, inpaint(image, mask, healthy=~mask, voxel_sizes_mm=ONE))
    one, two, other = (
        inpaint(image, mask, healthy=~mask, rng=np.random.default_rng(s), voxel_sizes_mm=ONE) for s in (1, 1, 2)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_growing_takes_the_rim_along():
    image, mask = textured(), ball((14, 14, 14), 3)
    grown = inpaint(image, mask, healthy=~ball((14, 14, 14), 5), grow_vox=1, voxel_sizes_mm=ONE)
    changed = (grown != image).any(axis=0)
    assert np.array_equal(changed, ndimage.binary_dilation(mask))


def test_empty_mask_and_mask_at_the_edge_of_the_grid():
    image = textured()
    assert np.array_equal(inpaint(image, np.zeros(SHAPE, bool), voxel_sizes_mm=ONE), image)
    corner = np.zeros(SHAPE, bool)
    corner[:4, :4, :4] = True
    assert np.isfinite(inpaint(image, corner, voxel_sizes_mm=ONE)).all()
    assert np.isfinite(inpaint(image, np.ones(SHAPE, bool), voxel_sizes_mm=ONE)).all()


def test_parts_are_filled_independently():
    image = textured()
    a, b = ball((7, 7, 7), 3), ball((21, 21, 21), 3)
    both, only = inpaint(image, a | b, voxel_sizes_mm=ONE), inpaint(image, a, voxel_sizes_mm=ONE)
    assert np.allclose(both[:, a], only[:, a], atol=1e-6)


def test_local_mean_is_exact_for_a_constant_and_falls_back_to_the_plain_mean():
    where = ball((5, 5, 5), 3)
    values = np.where(where, 4.0, -9.0)[None]
    mean = local_mean(values, where, sigma_vox=(2.0, 2.0, 2.0))
    assert np.allclose(mean, 4.0)


def test_a_painted_texture_has_the_steps_of_the_real_one_inside_and_across_its_border():
    """The texture is known: smooth noise. Drawn given its surroundings, it is neither rougher inside nor broken at the border."""
    rng = np.random.default_rng(3)
    hole = np.zeros((40, 40, 40), dtype=bool)
    hole[15:25, 16:24, 15:25] = True
    inner, border = [], []
    for _ in range(10):
        real = ndimage.gaussian_filter(rng.standard_normal((1, 40, 40, 40)), (0, 1, 1, 1)).astype(np.float32)
        filled = inpaint(real, hole, voxel_sizes_mm=(1, 1, 1), healthy=~hole, rng=rng)
        smooth = inpaint(real, hole, voxel_sizes_mm=(1, 1, 1), healthy=~hole)
        steps = [np.abs(np.diff(image[0], axis=0)) for image in (real, filled, smooth)]
        within, across = hole[1:] & hole[:-1], hole[1:] ^ hole[:-1]
        inner.append([step[within].mean() for step in steps])
        border.append([step[across].mean() for step in steps])
    for found in (np.mean(inner, axis=0), np.mean(border, axis=0)):
        assert found[1] / found[0] == pytest.approx(1.0, abs=0.1)
    assert np.mean(inner, axis=0)[2] < 0.7 * np.mean(inner, axis=0)[0]


def test_tissue_at_the_edge_of_white_matter_is_described_by_its_depth():
    """Where the mean falls and the spread grows towards the edge, that is found, in the hole as well, on oblong voxels too."""
    rng = np.random.default_rng(4)
    white = np.zeros((40, 40, 12), dtype=bool)
    white[1:-1] = True
    hole = np.zeros_like(white)
    hole[1:7, 15:25, 4:8] = True
    edges = np.minimum(np.arange(40), np.arange(40)[::-1]).clip(1, 6)
    mean, spread = 3.0 * edges - 18.0, 4.0 - 0.5 * edges
    real = mean[:, None, None] + spread[:, None, None] * rng.standard_normal((1, 40, 40, 12))
    found_mean, found_spread = (one[0][hole].reshape(6, -1).mean(axis=1)
                                for one in _by_depth(real, white & ~hole, hole, (1.0, 1.0, 4.0)))  # fmt: skip
    assert found_mean == pytest.approx(mean[1:7], abs=1.5)  # steps of a depth are softened
    assert np.diff(found_mean).min() > 1.0
    assert found_spread == pytest.approx(spread[1:7], abs=1.0)
    assert (np.diff(found_spread) < 0).all()
