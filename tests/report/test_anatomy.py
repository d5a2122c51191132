"""Where a lesion is said to lie: by the patient's directions, whatever the grid's."""

import numpy as np
import pytest

from lesionwise.report.anatomy import HeadAnatomy
from lesionwise.report.scene import ScanView

AXES_MM = np.array([60.0, 80.0, 65.0])
"""Half axes of a brain-like ellipsoid around the origin: right, front, up."""


def head(tilt_deg):
    """An ellipsoid on a grid of 2 mm that is turned around the left-right axis."""
    turn, side = np.radians(tilt_deg), 100
    rotation = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    affine = np.eye(4)
    affine[:3, :3] = 2.0 * rotation
    affine[:3, 3] = -affine[:3, :3] @ np.full(3, (side - 1) / 2)
    at = np.indices((side, side, side)).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    image = (100.0 * (((at / AXES_MM) ** 2).sum(axis=1) < 1)).reshape(side, side, side).astype(np.float32)
    scene = ScanView.__new__(ScanView)  # of all that a scene holds, images and affine are what places are judged by
    scene.__dict__.update(images={"FLAIR": image}, affine=affine)
    return scene


@pytest.mark.parametrize("tilt_deg", [0, 23, -23])
@pytest.mark.parametrize(
    ("at_mm", "place", "side"),
    [
        ((0, -30, -40), "infratentorial", "near the midline"),
        ((35, 20, -10), "deep white matter", "right"),
        ((-30, -20, 20), "deep white matter", "left"),
        ((-56, 0, 0), "near the cortex", "left"),
    ],
)
def test_a_tilted_grid_changes_neither_place_nor_side(tilt_deg, at_mm, place, side):
    scene = head(tilt_deg)
    anatomy = HeadAnatomy.of(scene)
    voxel = np.round(np.linalg.inv(scene.affine) @ (*at_mm, 1.0))[:3].astype(int)[None]
    assert anatomy._place(voxel) == place
    assert anatomy._side(voxel) == side
