import numpy as np
import pytest
from scipy.spatial import cKDTree

from lesionwise.instances import find_instances, place_controls

SHAPE = (40, 40, 40)


def ball(centre, radius, shape=SHAPE):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return ((grid - np.asarray(centre)) ** 2).sum(-1) <= radius**2


@pytest.fixture
def scene():
    """Two lesions at one side of a ball of white matter, one deep and one at its border."""
    tissue = ball((20, 20, 20), 17)
    lesions = ball((12, 12, 20), 2) | ball((5, 20, 20), 2)
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    return tissue & ~lesions, lesions, find_instances(lesions, affine=affine), affine


def placed(scene, seed=0, **options):
    healthy, lesions, instances, _ = scene
    return place_controls(
        instances, white_matter=healthy, avoid=lesions, rng=np.random.default_rng(seed), **{"margin_mm": 6.0, **options}
    )


@pytest.mark.parametrize("margin_mm", [0.5, 6.0])  # the smaller one looks less far than controls come to lie
def test_controls_match_on_size_shape_tissue_and_depth(scene, margin_mm):
    healthy, lesions, instances, affine = scene
    result = placed(scene, n=6, margin_mm=margin_mm)
    assert len(result.controls) == 6
    assert not result.failures
    lesion_tree = cKDTree(np.argwhere(lesions) @ affine[:3, :3])
    for control in result.controls:
        template = next(one for one in instances if one.label == control.template)
        voxels = control.instance.voxels
        assert control.instance.outcome == "TN"
        assert np.array_equal(np.sort(voxels - voxels.min(0), 0), np.sort(template.voxels - template.voxels.min(0), 0))
        assert healthy[control.instance.index].all()
        assert abs(control.depth_mm - control.template_depth_mm) <= 1.0
        nearest = lesion_tree.query(voxels @ affine[:3, :3])[0].min()
        assert nearest > margin_mm
        # To the lesions' border: what lies between a voxel's centre and the nearest face, axis by axis.
        sizes = np.diag(affine)[:3]
        gaps = np.abs(voxels[:, None] - np.argwhere(lesions)[None]) * sizes - sizes / 2
        border = np.linalg.norm(np.maximum(gaps, 0), axis=-1).min()
        assert control.lesion_distance_mm == pytest.approx(border, rel=1e-5)


def test_controls_do_not_touch_and_are_numbered_after_the_lesions(scene):
    controls = placed(scene, n=6).instances
    assert [one.label for one in controls] == [3, 4, 5, 6, 7, 8]
    for a in controls:
        for b in controls:
            if a.label != b.label:
                assert np.abs(a.voxels[:, None] - b.voxels[None]).max(-1).min() > 1


def test_depth_decides_where_a_control_may_lie(scene):
    shallow, deep = sorted(placed(scene, n=2, depth_tolerance_mm=0.5).controls, key=lambda c: c.template_depth_mm)
    assert shallow.template_depth_mm < deep.template_depth_mm - 1
    assert shallow.depth_mm < deep.depth_mm


def test_the_seed_alone_decides(scene):
    first, again, other = (placed(scene, seed=s, n=4).instances for s in (1, 1, 2))
    assert all(np.array_equal(a.voxels, b.voxels) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a.voxels, b.voxels) for a, b in zip(first, other, strict=True))


def test_all_places_that_qualify_are_drawn(scene):
    """Placement is not biased to the first corner: over seeds, controls fall on every side of the white matter."""
    centres = np.array([c.instance.centroid_mm for s in range(12) for c in placed(scene, seed=s, n=2).controls])
    assert (centres.std(axis=0) > 3).all()


def test_an_impossible_placement_is_reported_not_forced(scene):
    healthy, lesions, instances, _ = scene
    result = place_controls(
        instances, white_matter=healthy, avoid=lesions, rng=np.random.default_rng(0), margin_mm=200.0
    )
    assert result.controls == ()
    assert len(result.failures) == 2
    assert "200 mm" in result.failures[0]


def test_no_lesions_no_controls(scene):
    healthy, lesions, _, _ = scene
    assert place_controls([], white_matter=healthy, avoid=lesions, rng=np.random.default_rng(0)).controls == ()
