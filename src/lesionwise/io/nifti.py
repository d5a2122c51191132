"""NIfTI images in and out: checked on reading, written whole."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from lesionwise.errors import GridMismatchError, ImageFileError
from lesionwise.geometry.affine import ROUNDING_MM, SAME_GRID_VOX, grid_shift_mm, grid_shift_vox, same_grid
from lesionwise.io.content import opened
from lesionwise.io.files import write_whole
from lesionwise.io.header import Position, position_of
from lesionwise.types import Affine, Shape

_LEVEL = 4
_GZIP = 16 + zlib.MAX_WBITS  # zlib's word for a gzip file


@dataclass(frozen=True, eq=False)
class FileImage:
    """A 3-D image as its file has it: (i, j, k) float32, where it lies, and which voxels held NaN (0 in `data`)."""

    data: np.ndarray
    position: Position
    missing: np.ndarray | None = None

    @property
    def affine(self) -> Affine:
        """Takes voxels to RAS mm."""
        return self.position.affine

    @property
    def shape(self) -> Shape:
        """Grid size in voxels."""
        i, j, k = self.data.shape
        return i, j, k


def read_array(path: Path | str) -> tuple[np.ndarray, Affine]:
    """The voxels as stored (scaled, any number of axes) with the affine to RAS mm.

    Raises ImageFileError as `opened` and `position_of` do.
    """
    data, position = _read(Path(path))
    return data, position.affine


def read_file_image(path: Path | str) -> FileImage:
    """A 3-D image with its place; voxels that hold NaN (which many programs write outside the brain) are 0.

    Raises ImageFileError as `opened` and `position_of` do, and if the image is not 3-D, is empty, is not of plain
    numbers, or holds values that are infinite or too large for float32.
    """
    path = Path(path)
    data, position = _read(path)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise ImageFileError(f"Expected a 3-D image, found {data.ndim}-D with shape {data.shape} in {path}.")
    if data.size == 0:
        raise ImageFileError(f"Expected an image with voxels, found shape {data.shape} in {path}.")
    if data.dtype.fields is not None or data.dtype.kind not in "biuf":
        raise ImageFileError(f"Expected an image of plain numbers, found voxels of type {data.dtype} in {path}.")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(data, dtype=np.float32)
    missing = np.isnan(values)
    if np.isinf(values).any():
        beyond = int(np.isinf(values).sum()) - int(np.isinf(data).sum())
        what = f"{beyond} voxels too large for float32" if beyond else f"{int(np.isinf(values).sum())} infinite voxels"
        raise ImageFileError(f"Expected finite intensities, found {what} in {path}.")
    if not missing.any():
        return FileImage(values, position)
    values[missing] = 0.0
    return FileImage(values, position, missing)


def read_image(path: Path | str) -> tuple[np.ndarray, Affine]:
    """A 3-D image (i, j, k) float32 with its affine to RAS mm.

    Raises ImageFileError as `read_file_image`, and if the image holds NaN.
    """
    found = read_file_image(path)
    if found.missing is not None:
        raise ImageFileError(f"Expected finite intensities, found {int(found.missing.sum())} NaN voxels in {path}.")
    return found.data, found.affine


def check_same_grid(
    found: FileImage | tuple[Shape, Affine], *, like: FileImage | tuple[Shape, Affine], what: str, hint: str = ""
) -> str:
    """Raises GridMismatchError unless both have one shape and corners within a tenth of a voxel of one another.

    Returns "" for equal grids, else a sentence about the shift that is ignored. `what` names the image that is checked;
    `hint` ends the error. Errors name an sform that disagrees with its qform, or a header without either, as the reason.
    """
    shape, affine = _grid(found)
    wanted_shape, wanted_affine = _grid(like)
    reason = "".join(_reason(one, who) for one, who in ((like, "the first image"), (found, f"the {what}")))
    if shape != wanted_shape:
        raise GridMismatchError(
            f"Expected the grid {wanted_shape} of the first image, found {shape} in the {what}{hint}{reason}."
        )
    if grid_shift_vox(affine, wanted_affine, shape) > SAME_GRID_VOX:
        shift = grid_shift_mm(affine, wanted_affine, shape)
        raise GridMismatchError(
            f"Expected the affine of the first image, but the {what} lies up to {shift:.2f} mm away from it{hint}{reason}."
        )
    shift = grid_shift_mm(affine, wanted_affine, shape)
    if shift <= ROUNDING_MM:
        return ""
    return (
        f"The {what} lies {shift:.3f} mm from the first image's grid, less than a tenth of a voxel: taken to be on it."
    )


def can_be_moved(found: FileImage, first: FileImage) -> bool:
    """True if world coordinates may bring one image onto another's grid.

    Not where a header does not say where its image lies, nor where the grids agree by one image's qform and its sform says
    otherwise: the images are then aligned as they are, or one is not where it says.
    """
    if not (found.position.sided and first.position.sided):
        return False
    by_qform = (found.position.other, first.affine), (found.affine, first.position.other)
    return not any(a is not None and b is not None and same_grid(found.shape, a, (first.shape, b)) for a, b in by_qform)


def write_image(
    path: Path,
    data: np.ndarray,
    affine: Affine,
    *,
    dtype: type = np.float32,
    description: str = "",
    sided: bool = True,
) -> None:
    """Writes (i, j, k) or (i, j, k, channel) as NIfTI, whole or not at all; qform and sform both hold the affine.

    Their codes are 0 where it is not known which side is right (`sided` False), as they were in the image that was read.
    The file holds no time stamp, so the same data give the same bytes. Of measured values only runs are packed: their
    digits hardly repeat, and looking for that takes several times as long.
    """
    array = np.asarray(data)
    array = array.astype(np.uint8 if dtype is bool else dtype, copy=False)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    image.set_qform(affine, code=int(sided))
    image.set_sform(affine, code=int(sided))
    with write_whole(path) as temporary:
        if path.name.endswith(".gz"):
            strategy = zlib.Z_RLE if array.dtype.kind == "f" else zlib.Z_DEFAULT_STRATEGY
            packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP, zlib.DEF_MEM_LEVEL, strategy)
            temporary.write_bytes(packer.compress(image.to_bytes()) + packer.flush())
        else:
            temporary.write_bytes(image.to_bytes())


def _read(path: Path) -> tuple[np.ndarray, Position]:
    with opened(path) as image:
        position = position_of(image, path)
        with np.errstate(all="ignore"):
            return np.asanyarray(image.dataobj), position


def _grid(one: FileImage | tuple[Shape, Affine]) -> tuple[Shape, Affine]:
    return (one.shape, one.affine) if isinstance(one, FileImage) else one


def _reason(one: FileImage | tuple[Shape, Affine], who: str) -> str:
    if not isinstance(one, FileImage):
        return ""
    if not one.position.sided:
        return f"; the header of {who} does not say where it lies (sform and qform codes 0)"
    return f"; of {who}, {one.position.conflict}" if one.position.conflict else ""
