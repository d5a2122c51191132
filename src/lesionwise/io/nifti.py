"""NIfTI images in and out: checked on reading, written whole."""

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError as NibabelError

from lesionwise.errors import GridMismatchError, ImageFileError
from lesionwise.geometry.affine import GRID_TOLERANCE_MM, grid_shift_mm
from lesionwise.io.files import write_whole
from lesionwise.types import Affine, Shape


def read_array(path: Path | str) -> tuple[np.ndarray, Affine]:
    """The voxels as stored (scaled, any number of axes) with the affine to RAS mm.

    Raises ImageFileError if the file is missing, unreadable or truncated.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageFileError(f"Expected a NIfTI image, but there is no file {path}.")
    try:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    except (NibabelError, EOFError, OSError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise ImageFileError(f"Expected a readable NIfTI image, but {path} is damaged or not one ({error}).") from error
    return data, np.array(image.affine, dtype=np.float64)  # type: ignore[attr-defined]


def read_image(path: Path | str) -> tuple[np.ndarray, Affine]:
    """A 3-D image (i, j, k) float32 with its affine to RAS mm.

    Raises ImageFileError if the file is missing, unreadable, truncated, not 3-D, empty, without a usable affine, or
    holds NaN or infinite values.
    """
    data, affine = read_array(path)
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise ImageFileError(f"Expected a 3-D image, found {data.ndim}-D with shape {data.shape} in {path}.")
    if data.size == 0:
        raise ImageFileError(f"Expected an image with voxels, found shape {data.shape} in {path}.")
    if data.dtype.fields is not None or np.iscomplexobj(data):
        raise ImageFileError(f"Expected an image of plain numbers, found voxels of type {data.dtype} in {path}.")
    if not np.isfinite(data).all():
        bad = int(np.count_nonzero(~np.isfinite(data)))
        raise ImageFileError(f"Expected finite intensities, found {bad} NaN or infinite voxels in {path}.")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ImageFileError(f"Expected an affine that can be inverted, found {affine.tolist()} in {path}.")
    return np.ascontiguousarray(data, dtype=np.float32), affine


def read_mask(path: Path | str, *, like: tuple[Shape, Affine], what: str) -> np.ndarray:
    """A binary mask (i, j, k) on the grid `like`; any value above 0 counts as inside.

    Raises ImageFileError as `read_image`, and if the values are not labels; GridMismatchError if the grids differ.
    """
    data, affine = read_image(path)
    check_same_grid(data.shape, affine, like=like, what=f"{what} {path}")
    values = np.unique(data)
    if values.min() < 0 or not np.array_equal(values, np.round(values)):
        shown = ", ".join(f"{v:g}" for v in values[:6])
        raise ImageFileError(
            f"Expected a mask of whole numbers from 0 as {what}, found the values {shown}, ... in {path}."
        )
    return data > 0


def check_same_grid(shape: tuple[int, ...], affine: Affine, *, like: tuple[Shape, Affine], what: str) -> None:
    """Raises GridMismatchError unless shape and affine agree with `like` (corners within 0.01 mm)."""
    wanted_shape, wanted_affine = like
    if tuple(shape) != tuple(wanted_shape):
        raise GridMismatchError(
            f"Expected the grid {wanted_shape} of the first image, found {tuple(shape)} in the {what}."
        )
    shift = grid_shift_mm(affine, wanted_affine, wanted_shape)
    if shift > GRID_TOLERANCE_MM:
        raise GridMismatchError(
            f"Expected the affine of the first image, but the {what} lies up to {shift:.2f} mm away from it."
        )


def write_image(
    path: Path, data: np.ndarray, affine: Affine, *, dtype: type = np.float32, description: str = ""
) -> None:
    """Writes (i, j, k) or (i, j, k, channel) as NIfTI, whole or not at all; qform and sform both hold the affine.

    The file holds no time stamp, so the same data give the same bytes.
    """
    array = np.asarray(data)
    array = array.astype(np.uint8 if dtype is bool else dtype, copy=False)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with write_whole(path) as temporary:
        if path.name.endswith(".gz"):
            with open(temporary, "wb") as raw, gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as stream:
                stream.write(image.to_bytes())
        else:
            temporary.write_bytes(image.to_bytes())
