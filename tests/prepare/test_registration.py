"""Rigid registration finds known motions, says when channels are mirrored, and writes what other tools read."""

import numpy as np
import pytest
from heads import channel, motion, moved, small_head
from scipy import ndimage

from lesionwise.geometry.affine import to_mm
from lesionwise.geometry.volume import Volume
from lesionwise.prepare.doubts import FAINT_INFORMATION
from lesionwise.prepare.recognition import whole_head
from lesionwise.prepare.registration import Rigid, mirrored, read_transform, register, write_transform

CENTRE = np.array([0.0, -14.0, 17.0])


@pytest.fixture(scope="module")
def pair():
    head, brain = small_head()
    flair = channel(head, "FLAIR", every=3)
    thick = brain[:, :, : flair.shape[2] * 3].reshape(*brain.shape[:2], -1, 3).any(axis=3)
    return flair, channel(head, "T1w", every=2, first=1), thick


def found(pair, t1w):
    flair, _, brain = pair
    return register(flair, t1w, head=whole_head(flair), brain=brain)


@pytest.fixture(scope="module")
def far(pair):
    """A motion at the edge of what is promised, and what was found of it."""
    true = motion((15.0, -12.0, 14.0), (-14.0, 11.0, 15.0), CENTRE)
    return true, found(pair, moved(pair[1], true))


def test_a_known_motion_is_found_to_a_millimetre_at_the_brains_surface(pair, far):
    true, rigid = far
    flair, _, brain = pair
    points = to_mm(np.argwhere(brain & ~ndimage.binary_erosion(brain)), flair.affine)
    error_mm = np.linalg.norm(to_mm(points, rigid.matrix) - to_mm(points, true), axis=1)
    assert error_mm.max() < 1.0
    # what the headers alone get wrong is what was moved
    np.testing.assert_allclose(rigid.moved_mm(points), np.linalg.norm(to_mm(points, true) - points, axis=1), atol=1.0)
    assert rigid.moved_mm(points).max() > 20.0


def test_alignment_raises_the_information_and_the_mirror_image_has_less(far):
    _, rigid = far
    assert rigid.information_after > 1.5 * rigid.information_before
    assert rigid.information_after > rigid.information_mirrored


def test_a_channel_stored_left_for_right_agrees_better_as_its_mirror_image(pair):
    rigid = found(pair, mirrored(pair[1]))
    assert rigid.information_mirrored > rigid.information_after


def test_mirroring_twice_changes_nothing_and_once_exchanges_left_and_right():
    data = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    turned = Volume(data, np.array([[0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]]), ("T1w",))
    assert np.array_equal(mirrored(turned).data, data[:, :, ::-1])  # the second axis runs along x
    assert np.array_equal(mirrored(mirrored(turned)).data, data)


def test_an_image_of_something_else_shares_little(pair):
    values = np.random.default_rng(0).random(pair[1].data.shape).astype(np.float32)
    assert found(pair, Volume(values, pair[1].affine, ("T1w",))).information_after < FAINT_INFORMATION


def test_the_file_takes_fixed_points_to_moving_points_in_itks_own_frame(tmp_path):
    matrix = motion((3.0, -2.0, 1.0), (4.0, 5.0, -6.0), CENTRE)
    path = tmp_path / "x_xfm.txt"
    write_transform(path, Rigid(matrix, 0.1, 0.5, 0.2))
    assert path.read_text().startswith("#Insight Transform File V1.0")
    np.testing.assert_allclose(read_transform(path), matrix, atol=1e-9)
    sitk = pytest.importorskip("SimpleITK")
    point = np.array([10.0, 20.0, 30.0])  # RAS; ITK counts x and y the other way round
    x, y, z = sitk.ReadTransform(str(path)).TransformPoint((-10.0, -20.0, 30.0))
    np.testing.assert_allclose([-x, -y, z], to_mm(point[None], matrix)[0], atol=1e-9)


def test_the_angle_is_that_of_the_rotation():
    assert Rigid(motion((1, 2, 3), (0, 0, 10), CENTRE), 0, 0, 0).degrees == pytest.approx(10.0)
