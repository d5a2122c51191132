"""Reading one scan: channels on one grid, a head mask, perhaps a reference."""

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from nilearn.image import resample_to_img

from lesionwise.errors import GridMismatchError, ImageFileError, InputError
from lesionwise.geometry.affine import GRID_TOLERANCE_MM, grid_shift_mm
from lesionwise.geometry.head import check_skull_stripped, find_head
from lesionwise.geometry.volume import Case, ScanName, Volume
from lesionwise.io.nifti import read_image, read_mask
from lesionwise.types import Affine


def read_case(
    images: Mapping[str, Path | str],
    *,
    reference: Path | str | None = None,
    brain_mask: Path | str | None = None,
    resample: bool = False,
    name: ScanName | None = None,
) -> Case:
    """One scan from its image files: {"FLAIR": path, "T1w": path}.

    All channels, the reference and the brain mask must share one grid; with `resample` the channels after the first
    are interpolated (linearly) onto the first one's grid. The head is `brain_mask` if given, else found from the
    images, which must then be skull-stripped.

    Raises ImageFileError for a file that is missing, damaged, 4-D, empty or holds NaN; GridMismatchError for
    images on different grids (the sentence names `--resample` where that can help); InputError for a head with skull.
    """
    if not images:
        raise InputError("Expected at least one image, such as -i FLAIR=flair.nii.gz, found none.")
    notes: list[str] = []
    arrays: list[np.ndarray] = []
    grid: tuple[tuple[int, ...], Affine] | None = None
    for channel, path in images.items():
        data, affine = read_image(path)
        if float(data.max()) == float(data.min()):
            raise ImageFileError(f"Expected a scan with contrast, found the one value {data.max():g} in {path}.")
        if grid is None:
            grid = (data.shape, affine)
        elif not _same_grid(data, affine, grid):
            data = _onto_first(channel, Path(path), data, affine, grid, resample=resample)
            notes.append(f"{channel} was resampled linearly onto the grid of {next(iter(images))}.")
        arrays.append(data)
    affine = grid[1]  # type: ignore[index]
    image = Volume(np.stack(arrays), affine, tuple(images))
    like = (image.shape, affine)
    if brain_mask is not None:
        head = read_mask(brain_mask, like=like, what="brain mask")
        if not head.any():
            raise ImageFileError(f"Expected a brain mask with voxels inside, found none in {brain_mask}.")
        notes.append("The head is the given brain mask.")
    else:
        head = find_head(image)
        check_skull_stripped(head, image, what=str(next(iter(images.values()))))
        notes.append("The head was found from the images.")
    truth = None if reference is None else read_mask(reference, like=like, what="reference")
    files = {**images, **({} if reference is None else {"reference": reference})}
    return Case(
        image,
        head,
        truth,
        name or guess_name(next(iter(images.values()))),
        notes=tuple(notes),
        sources={what: str(Path(path).resolve()) for what, path in files.items()},
    )


def guess_name(path: Path | str) -> ScanName:
    """BIDS entities in a file name, else subject 01."""
    stem = Path(path).name.split(".")[0]
    entities = dict(part.split("-", 1) for part in stem.split("_") if "-" in part)
    if "sub" not in entities:
        return ScanName()
    return ScanName(entities["sub"], entities.get("ses"), entities.get("acq"), entities.get("run"))


def _same_grid(data: np.ndarray, affine: Affine, grid: tuple[tuple[int, ...], Affine]) -> bool:
    shape, wanted = grid
    return data.shape == shape and grid_shift_mm(affine, wanted, data.shape) <= GRID_TOLERANCE_MM  # type: ignore[arg-type]


def _onto_first(
    channel: str, path: Path, data: np.ndarray, affine: Affine, grid: tuple[tuple[int, ...], Affine], *, resample: bool
) -> np.ndarray:
    shape, wanted = grid
    if not resample:
        found = f"{data.shape}" if data.shape != shape else "the same shape but another affine"
        raise GridMismatchError(
            f"Expected {channel} on the grid {shape} of the first image, found {found} in {path}: "
            "align them in world space and add --resample to interpolate onto the first image's grid."
        )
    moved = resample_to_img(
        nib.Nifti1Image(data, affine),
        nib.Nifti1Image(np.zeros(shape, dtype=np.float32), wanted),
        interpolation="linear",
        force_resample=True,
        copy_header=True,
    ).get_fdata(dtype=np.float32)
    if not np.any(moved):
        raise GridMismatchError(
            f"Expected {channel} to overlap the first image in world space, but {path} lies outside it."
        )
    return np.ascontiguousarray(moved, dtype=np.float32)
