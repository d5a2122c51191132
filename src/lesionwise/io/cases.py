"""Reading one scan: channels on one grid, a head mask, perhaps a reference; and saying what had to be assumed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from lesionwise.errors import GridMismatchError, ImageFileError, InputError
from lesionwise.geometry.affine import same_grid
from lesionwise.geometry.head import check_skull_stripped, find_head, head_notes
from lesionwise.geometry.volume import Case, ScanName, Volume
from lesionwise.io.bids import BidsScan, name_of
from lesionwise.io.masks import ReferenceRule, check_reference, read_brain_mask, read_reference
from lesionwise.io.nifti import FileImage, can_be_moved, check_same_grid, read_file_image
from lesionwise.types import MaskArray

HEAD_FOUND = "The head was found from the images."
"""The one note that says nothing unusual."""


def read_case(
    images: Mapping[str, Path | str],
    *,
    reference: Path | str | None = None,
    reference_rule: ReferenceRule | None = None,
    brain_mask: Path | str | None = None,
    resample: bool = False,
    name: ScanName | None = None,
    notes: tuple[str, ...] = (),
) -> Case:
    """One scan from its image files: {"FLAIR": path, "T1w": path}.

    All channels, the reference and the brain mask must share one grid (to a tenth of a voxel); with `resample` others are
    brought onto the first one's grid, channels linearly and masks by nearest neighbour. The head is `brain_mask` if
    given, else found from the images, which must then be skull-stripped. `reference_rule` says which values of the
    reference are lesion. Whatever was assumed is told in the case's notes, after `notes`.

    Raises ImageFileError for a file that is missing, damaged, 4-D, empty, with NaN in the head, or a reference that could
    be anything; GridMismatchError for images on different grids (the sentence names `--resample` where that can help);
    InputError for a head with its skull.
    """
    if not images:
        raise InputError("Expected at least one image, such as -i FLAIR=flair.nii.gz, found none.")
    paths = {channel: Path(path) for channel, path in images.items()}
    told = list(notes)
    read = read_channels(paths, resample=resample, notes=told)
    image = Volume(np.stack(read.arrays), read.first.affine, tuple(paths))
    if brain_mask is not None:
        head, said = read_brain_mask(brain_mask, like=read.first, resample=resample)
        told += [*said, "The head is the given brain mask."]
    else:
        head = find_head(image)
        check_skull_stripped(head, image, what=str(next(iter(paths.values()))))
        told.append(HEAD_FOUND)
    _check_missing(read.missing, head, paths, told)
    told += head_notes(head, image, given=brain_mask is not None)
    truth: MaskArray | None = None
    if reference is not None:
        _check_other_file(Path(reference), paths)
        truth, said = read_reference(reference, like=read.first, rule=reference_rule, resample=resample)
        told += [*said, *check_reference(truth, head, path=reference)]
    files = {**paths, **({} if reference is None else {"reference": Path(reference)})}
    return Case(
        image,
        head,
        truth,
        name or guess_name(next(iter(paths.values()))),
        notes=tuple(told),
        sources={what: str(path.resolve()) for what, path in files.items()},
        sided=read.first.position.sided,
        reference_rule={} if reference is None or reference_rule is None else reference_rule.facts,
    )


def read_scan_case(scan: BidsScan, *, resample: bool = False) -> Case:
    """A scan of a data set, with what was said when it was chosen. Raises as `read_case`."""
    return read_case(
        scan.images,
        reference=scan.reference,
        reference_rule=scan.reference_rule,
        brain_mask=scan.brain_mask,
        resample=resample,
        name=scan.name,
        notes=scan.notes,
    )


def guess_name(path: Path | str) -> ScanName:
    """BIDS entities in a file name, else subject 01."""
    return name_of(Path(path)) or ScanName()


@dataclass(frozen=True, eq=False)
class Channels:
    """Images on the first one's grid: (i, j, k) float32 each, and where each held NaN."""

    first: FileImage
    arrays: list[np.ndarray]
    missing: list[np.ndarray | None]


def read_channels(paths: Mapping[str, Path], *, resample: bool, notes: list[str]) -> Channels:
    """All channels on the first one's grid; sentences about what was assumed are added to `notes`.

    Raises ImageFileError and GridMismatchError as `read_case`.
    """
    first_name = next(iter(paths))
    first: FileImage | None = None
    arrays: list[np.ndarray] = []
    missing: list[np.ndarray | None] = []
    for channel, path in paths.items():
        found = read_file_image(path)
        if float(found.data.max()) == float(found.data.min()):
            raise ImageFileError(f"Expected a scan with contrast, found the one value {found.data.max():g} in {path}.")
        notes += [f"{channel}: {note}." for note in found.position.notes]
        first = found if first is None else first
        where = found.missing
        if found is first:
            data = found.data
        elif same_grid(found.shape, found.affine, (first.shape, first.affine)):
            shifted = check_same_grid(found, like=first, what=channel)
            notes += [shifted] if shifted else []
            data = found.data
        else:
            data, where = _onto_first(channel, path, found, first, resample=resample)
            notes.append(f"{channel} was resampled linearly onto the grid of {first_name}.")
        twin = next((n for n, other in enumerate(arrays) if np.array_equal(other, data)), None)
        if twin is not None:
            notes.append(f"{list(paths)[twin]} and {channel} hold the same image: is one of them the wrong file?")
        arrays.append(data)
        missing.append(where)
    return Channels(first, arrays, missing)  # type: ignore[arg-type]


def _check_missing(
    missing: list[np.ndarray | None], head: MaskArray, paths: Mapping[str, Path], notes: list[str]
) -> None:
    """NaN outside the head is background; inside it is a hole that nothing can fill."""
    for (channel, path), where in zip(paths.items(), missing, strict=True):
        if where is None:
            continue
        inside = int((where & head).sum())
        if inside:
            raise ImageFileError(f"Expected finite intensities in the head, found {inside} NaN voxels in {path}.")
        notes.append(f"{channel}: {int(where.sum())} voxels outside the head held NaN and were set to 0.")


def _check_other_file(reference: Path, paths: Mapping[str, Path]) -> None:
    for channel, path in paths.items():
        if reference.resolve() == path.resolve():
            raise ImageFileError(f"Expected a lesion mask as reference, found the {channel} image itself, {reference}.")


def _onto_first(
    channel: str, path: Path, found: FileImage, first: FileImage, *, resample: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """The image, and where it has nothing to say, on the first one's grid."""
    placed = can_be_moved(found, first)
    if not (resample and placed):
        hint = f" ({path}): align them in world space and add --resample to interpolate onto the first image's grid"
        check_same_grid(found, like=first, what=channel, hint=hint if placed else f" ({path})")
    from nilearn.image import resample_to_img  # slow to import, and few scans need it

    moved = resample_to_img(
        nib.Nifti1Image(found.data, found.affine),
        nib.Nifti1Image(np.zeros(first.shape, dtype=np.float32), first.affine),
        interpolation="linear",
        force_resample=True,
        copy_header=True,
    ).get_fdata(dtype=np.float32)
    if not np.any(moved):
        raise GridMismatchError(
            f"Expected {channel} to overlap the first image in world space, but {path} lies outside it."
        )
    return np.ascontiguousarray(moved, dtype=np.float32), None if found.missing is None else moved == 0
