"""Where a header puts an image: the affine in mm, whether left and right are known, and what had to be assumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lesionwise.errors import ImageFileError
from lesionwise.geometry.affine import SAME_GRID_VOX, grid_shift_mm, grid_shift_vox, voxel_sizes_mm
from lesionwise.types import Affine

VOXEL_RANGE_MM = (0.1, 10.0)
"""Edges of voxels that scans of a head have; anything else is a header in another unit."""

_UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}
"""Codes of xyzt_units that are not mm, with their length in mm. 0 (unknown) and 2 are mm."""


@dataclass(frozen=True, eq=False)
class Position:
    """What a header says of an image's place.

    `affine` takes voxels to RAS mm. `sided` is False where the header does not say which side is right: the affine is
    then nibabel's convention, not a fact. `conflict` tells of an sform and a qform that disagree, and `other` is then the
    qform's affine. `notes` are sentences about what was assumed, without a subject ("lengths are ...").
    """

    affine: Affine
    sided: bool = True
    conflict: str = ""
    other: Affine | None = None
    notes: tuple[str, ...] = ()


def position_of(image: Any, path: Path) -> Position:
    """The place that the header of a nibabel image gives it.

    NIfTI: the sform where its code is above 0, else the qform, else neither. Raises ImageFileError if sform and qform
    disagree about left and right, the affine cannot be inverted, or the voxels are outside `VOXEL_RANGE_MM`.
    """
    header = image.header
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        sided = not isinstance(image, nib.analyze.AnalyzeImage)
        found = Position(np.array(image.affine, dtype=np.float64), sided, notes=() if sided else (_UNSIDED,))
        return _checked(found, path, "mm")
    unit, scale = _UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))
    forms = {name: _form(header, name, scale) for name in ("sform", "qform")}
    notes = [] if unit == "mm" else [f"lengths in its header are in {unit} and were taken as such"]
    if forms["sform"] is None and forms["qform"] is None:
        base = _scaled(np.array(header.get_base_affine(), dtype=np.float64), scale)
        return _checked(Position(base, sided=False, notes=(*notes, _UNSIDED)), path, unit)
    chosen = forms["sform"] if forms["sform"] is not None else forms["qform"]
    found = _checked(Position(chosen), path, unit)  # type: ignore[arg-type]
    conflict = ""
    if forms["sform"] is not None and forms["qform"] is not None:
        conflict = _conflict(forms["sform"], forms["qform"], tuple(image.shape[:3]), path)
        notes += [conflict] if conflict else []
    return Position(found.affine, True, conflict, forms["qform"] if conflict else None, tuple(notes))


_UNSIDED = (
    "its header does not say where it lies (the codes of sform and qform are 0): which side is right is not known, "
    "coordinates have no origin, and no side is named"
)


def _form(header: Any, name: str, scale: float) -> Affine | None:
    """The sform or qform in mm, None where its code is 0 or it cannot be made out."""
    if int(header[f"{name}_code"]) <= 0:
        return None
    try:
        return _scaled(np.array(getattr(header, f"get_{name}")(), dtype=np.float64), scale)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):
        return None  # a quaternion longer than 1


def _scaled(affine: Affine, scale: float) -> Affine:
    affine[:3] *= scale
    return affine


def _checked(found: Position, path: Path, unit: str) -> Position:
    affine = found.affine
    with np.errstate(all="ignore"):
        usable = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12
    if not usable:
        raise ImageFileError(f"Expected an affine that can be inverted, found {_rows(affine)} in {path}.")
    sizes = voxel_sizes_mm(affine)
    low, high = VOXEL_RANGE_MM
    if min(sizes) < low * 0.999 or max(sizes) > high * 1.001:
        shown = " x ".join(f"{size:.4g}" for size in sizes)
        raise ImageFileError(
            f"Expected voxels of {low:g} to {high:g} mm, found {shown} mm in {path}, whose header gives lengths in {unit}."
        )
    if abs(np.linalg.det(affine[:3, :3])) < 1e-3 * float(np.prod(sizes)):
        raise ImageFileError(f"Expected an affine that can be inverted, found {_rows(affine)} in {path}.")
    return found


def _conflict(sform: Affine, qform: Affine, shape: tuple[int, ...], path: Path) -> str:
    """How sform and qform disagree, "" if they do not. Raises ImageFileError if they swap left and right."""
    with np.errstate(all="ignore"):
        usable = np.isfinite(qform).all() and abs(np.linalg.det(qform[:3, :3])) > 1e-12
    if not usable:
        return "its qform makes no sense and its sform was used"
    grid = (*shape, 1, 1, 1)[:3]
    if _swaps_sides(sform, qform):
        raise ImageFileError(
            f"Expected the sform and the qform of {path} to agree on which side is right, but they do not: correct the "
            "header (whichever is wrong), as nothing in the image can tell."
        )
    if grid_shift_vox(qform, sform, grid) <= SAME_GRID_VOX:  # type: ignore[arg-type]
        return ""
    apart = grid_shift_mm(qform, sform, grid)  # type: ignore[arg-type]
    return (
        f"its sform and its qform lie up to {apart:.1f} mm apart; the sform was used, and programs that read the qform "
        "(ITK, ANTs, 3D Slicer) see the image elsewhere"
    )


def _swaps_sides(first: Affine, second: Affine) -> bool:
    """True if two affines give an image opposite handedness, or opposite directions for 'towards the right'."""
    if np.linalg.det(first[:3, :3]) * np.linalg.det(second[:3, :3]) < 0:
        return True
    right = []
    for affine in (first, second):
        # the direction in the image, along its own axes in mm, in which x grows
        towards = np.linalg.inv(affine[:3, :3])[:, 0] * np.linalg.norm(affine[:3, :3], axis=0)
        right.append(towards / np.linalg.norm(towards))
    return float(np.dot(*right)) < 0.0


def _rows(affine: Affine) -> str:
    return str(np.round(affine, 4).tolist())
