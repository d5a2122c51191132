"""The one door to SimpleITK: arrays with an affine to RAS mm become its images and come back."""

from functools import lru_cache
from typing import Any

import numpy as np

from lesionwise.errors import MissingExtraError
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.types import Affine, ScalarArray, Shape

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Takes RAS mm to ITK's LPS mm, and back."""


@lru_cache(maxsize=1)
def simpleitk() -> Any:
    """The package. Raises MissingExtraError if it is not installed."""
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingExtraError.of("SimpleITK", extra="prepare", purpose="Preparing scans") from error
    return SimpleITK


def to_itk(data: ScalarArray, affine: Affine) -> Any:
    """An image (i, j, k) float32 where its affine places it; a sheared grid (ITK has none) loses its shear."""
    sitk = simpleitk()
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0), dtype=np.float32))
    place(image, affine)
    return image


def place(image: Any, affine: Affine) -> None:
    """Gives an ITK image the origin, spacing and directions of an affine to RAS mm."""
    lps = LPS @ affine
    sizes = np.asarray(voxel_sizes_mm(affine))
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(sizes.tolist())
    image.SetDirection(_nearest_rotation(lps[:3, :3] / sizes).ravel().tolist())


def to_array(image: Any) -> np.ndarray:
    """Voxels (i, j, k) of an ITK image."""
    return np.ascontiguousarray(simpleitk().GetArrayFromImage(image).transpose(2, 1, 0))


def grid(shape: Shape, affine: Affine) -> Any:
    """An empty image that stands for a grid."""
    sitk = simpleitk()
    image = sitk.Image([int(n) for n in shape], sitk.sitkUInt8)
    place(image, affine)
    return image


def _nearest_rotation(directions: np.ndarray) -> np.ndarray:
    """Headers round their directions; ITK wants them orthogonal to 1e-6 (mirrored ones are allowed)."""
    left, _, right = np.linalg.svd(directions)
    return left @ right
