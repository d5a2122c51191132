"""What counts as lesion in a reference, and as brain in a brain mask: values are never guessed at.

A reference holds 0 and one other value. Anything else, several labels or a soft mask, needs a rule from its owner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lesionwise.errors import GridMismatchError, ImageFileError, InputError
from lesionwise.geometry.affine import same_grid, voxel_volume_mm3
from lesionwise.io.nifti import FileImage, can_be_moved, check_same_grid, read_file_image
from lesionwise.types import Affine, MaskArray, Shape

LARGEST_SHARE = 0.2
"""A reference of more than this fraction of the head is a brain mask, an inverted mask or a segmentation, not lesions."""

_SURELY_LABELS, _MOST_LABELS = 8, 40
"""Up to so many distinct whole numbers are labels; more than the latter a soft mask or an image."""

_MOST_BRAIN_LABELS = 400
_INSTANCES = ("seg-lesions_dseg", "desc-lesions_dseg")
"""Endings of images that number lesions one by one: an output folder's, a synthetic patient's."""


@dataclass(frozen=True)
class ReferenceRule:
    """Which values of a reference are lesion: one of `labels`, or above `threshold`; without either, the one value
    besides 0. Raises InputError if both are given, or a label is 0.
    """

    labels: tuple[float, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.labels and self.threshold is not None:
            raise InputError("Expected --reference-label or --reference-threshold, found both.")
        if 0.0 in self.labels:
            raise InputError("Expected --reference-label to name lesions, found 0, which is the background.")

    @classmethod
    def read(cls, labels: str | None, threshold: float | None) -> "ReferenceRule":
        """From the command line: `"1,2"` as labels 1 and 2. Raises InputError for anything that is not numbers."""
        if threshold is not None and not np.isfinite(threshold):
            raise InputError(f"Expected --reference-threshold to be a number, found {threshold}.")
        try:
            values = tuple(float(part) for part in labels.split(",")) if labels is not None else ()
        except ValueError:
            values = (float("nan"),)
        if not all(np.isfinite(value) for value in values):
            raise InputError(f"Expected --reference-label to be numbers such as 1,2, found {labels!r}.")
        return cls(values, threshold)

    @property
    def facts(self) -> dict[str, Any]:
        """For sidecars: {} for a reference of 0 and one other value."""
        if self.threshold is not None:
            return {"Threshold": self.threshold}
        return {"Labels": list(self.labels)} if self.labels else {}

    @classmethod
    def of_facts(cls, facts: object) -> "ReferenceRule":
        """From a sidecar. Raises InputError if it holds anything else."""
        found = facts if isinstance(facts, dict) else {}
        labels, threshold = found.get("Labels") or [], found.get("Threshold")
        try:
            return cls(tuple(float(one) for one in labels), None if threshold is None else float(threshold))
        except (TypeError, ValueError) as error:
            raise InputError(
                "Expected labels or a threshold of the reference in the sidecar, found neither."
            ) from error


def read_own_reference(path: Path | str, *, rule: ReferenceRule | None = None) -> MaskArray:
    """A lesion mask on its own grid, whatever that is. Raises ImageFileError as `read_reference`."""
    image = read_file_image(path)
    return _lesions(image.data, rule or ReferenceRule(), Path(path))[0]


def read_reference(
    path: Path | str,
    *,
    like: FileImage | tuple[Shape, Affine],
    rule: ReferenceRule | None = None,
    resample: bool = False,
) -> tuple[MaskArray, list[str]]:
    """A lesion mask (i, j, k) on the grid `like`, and sentences about what was assumed.

    NaN counts as background. With `resample` a mask on another grid is brought by nearest neighbour. Raises
    ImageFileError as `read_file_image`, or if the values need a rule; GridMismatchError if the grids differ.
    """
    path = Path(path)
    image, notes = _on_grid(path, like, what="reference", resample=resample)
    mask, said = _lesions(image.data, rule or ReferenceRule(), path)
    notes += said
    return mask, notes


def check_reference(mask: MaskArray, head: MaskArray, *, path: Path | str) -> list[str]:
    """Sentences about lesions that the head leaves out. Raises ImageFileError if the lesions fill the head."""
    inside = int(head.sum())
    lesions = int(mask.sum())
    if lesions > LARGEST_SHARE * inside:
        raise ImageFileError(
            f"Expected lesions as reference, at most {100 * LARGEST_SHARE:.0f} % of the head, found {lesions} voxels for a head "
            f"of {inside} in {path}: is it a brain mask, an inverted mask, or a segmentation of tissue?"
        )
    cut = int((mask & ~head).sum())
    if not cut:
        return []
    return [
        f"The head leaves out {cut} of {lesions} voxels of the reference: lesions at its edge are judged on part of their "
        "surroundings."
    ]


def read_brain_mask(
    path: Path | str, *, like: FileImage | tuple[Shape, Affine], resample: bool = False
) -> tuple[MaskArray, list[str]]:
    """A brain mask (i, j, k) on the grid `like`, any label above 0 inside, and sentences about what was assumed.

    Raises ImageFileError as `read_file_image`, if the values are not labels or none is above 0; GridMismatchError if the
    grids differ.
    """
    path = Path(path)
    image, notes = _on_grid(path, like, what="brain mask", resample=resample)
    mask = _labelled(image.data, what="brain mask", path=path)
    if not mask.any():
        raise ImageFileError(f"Expected a brain mask with voxels inside, found none in {path}.")
    return mask, notes


def read_mask(path: Path | str, *, like: tuple[Shape, Affine], what: str) -> MaskArray:
    """A binary mask (i, j, k) on the grid `like`; any label above 0 counts as inside.

    Raises ImageFileError as `read_file_image`, and if the values are not labels; GridMismatchError if the grids differ.
    """
    image, _ = _on_grid(Path(path), like, what=what, resample=False)
    return _labelled(image.data, what=what, path=Path(path))


def _on_grid(
    path: Path, like: FileImage | tuple[Shape, Affine], *, what: str, resample: bool
) -> tuple[FileImage, list[str]]:
    image, notes = read_file_image(path), []
    if image.missing is not None:
        notes.append(f"The {what} held NaN in {int(image.missing.sum())} voxels, taken as background.")
    notes += [f"Of the {what}, {note}." for note in image.position.notes]
    shape, affine = (like.shape, like.affine) if isinstance(like, FileImage) else like
    placed = can_be_moved(image, like) if isinstance(like, FileImage) else image.position.sided
    if resample and placed and not same_grid(image.shape, image.affine, (shape, affine)):
        moved = _nearest(image, shape, affine)
        before, after = (
            float((data > 0).sum()) * voxel_volume_mm3(grid)
            for data, grid in ((image.data, image.affine), (moved, affine))
        )
        if before > 0 and after == 0:
            raise GridMismatchError(
                f"Expected the {what} to overlap the first image in world space, but {path} has nothing there."
            )
        notes.append(
            f"The {what} was brought onto the first image's grid by nearest neighbour ({before:.0f} mm3 before, {after:.0f} "
            "after)."
        )
        return FileImage(moved, like.position if isinstance(like, FileImage) else image.position), notes
    hint = ": --resample brings it onto that grid by nearest neighbour" if placed and not resample else ""
    shifted = check_same_grid(image, like=like, what=f"{what} {path}", hint=hint)
    return image, [*notes, *([shifted.replace(str(path), path.name)] if shifted else [])]


def _nearest(image: FileImage, shape: Shape, affine: Affine) -> np.ndarray:
    from nilearn.image import resample_to_img  # slow to import, and few scans need it

    moved = resample_to_img(
        nib.Nifti1Image(image.data, image.affine),
        nib.Nifti1Image(np.zeros(shape, dtype=np.float32), affine),
        interpolation="nearest",
        force_resample=True,
        copy_header=True,
    ).get_fdata(dtype=np.float32)
    return np.ascontiguousarray(moved)


def _lesions(data: np.ndarray, rule: ReferenceRule, path: Path) -> tuple[MaskArray, list[str]]:
    values = np.unique(data)
    if rule.threshold is not None:
        mask = data > rule.threshold
        return mask, [
            f"Reference: of values from {values[0]:g} to {values[-1]:g}, those above {rule.threshold:g} count as lesion "
            f"({int(mask.sum())} voxels)."
        ]
    if rule.labels:
        mask = np.zeros(data.shape, dtype=bool)
        for label in rule.labels:
            mask |= np.abs(data - label) <= 1e-3 * max(1.0, abs(label))
        found = f"found values {_shown(values)}"
        return mask, [
            f"Reference: the labels {_shown(rule.labels)} count as lesion ({int(mask.sum())} voxels; {found})."
        ]
    others = values[values != 0]
    if len(others) == 0:
        return np.zeros(data.shape, dtype=bool), []
    whole = bool(np.array_equal(values, np.round(values)))
    if len(values) == 2 and len(others) == 1 and others[0] > 0:
        said = [] if others[0] == 1 else [f"Reference: its one value besides 0, {others[0]:g}, counts as lesion."]
        return data > 0, said
    if whole and values[0] >= 0 and _stem(path).endswith(_INSTANCES):
        return _instances(data, path)
    if len(others) == 1 and len(values) == 1:
        raise ImageFileError(f"Expected a reference with background, but {path} holds {others[0]:g} in every voxel.")
    half = f"--reference-threshold, such as {0.5 * (values[0] + values[-1]):.3g}"
    if whole and len(values) <= _MOST_LABELS:
        soft = f"; for a soft mask give {half}" if len(values) > _SURELY_LABELS else ""
        raise ImageFileError(
            f"Expected a reference of 0 and one other value, found {_shown(values)} in {path}: say which are lesions, such as "
            f"--reference-label {others[-1]:g}{soft}."
        )
    raise ImageFileError(
        f"Expected a reference of 0 and one other value, found {len(values)} values from {values[0]:g} to {values[-1]:g} in "
        f"{path}: for a soft mask give {half}; an image is no reference."
    )


def _instances(data: np.ndarray, path: Path) -> tuple[MaskArray, list[str]]:
    """All numbered lesions; control regions, which an output folder's table calls so, are healthy."""
    controls: list[int] = []
    table = path.with_name(f"{_stem(path)}.tsv")
    if table.is_file():
        lines = [line.split("\t") for line in table.read_text(encoding="utf-8", errors="replace").splitlines()]
        if lines and "index" in lines[0] and "source" in lines[0]:
            index, source = lines[0].index("index"), lines[0].index("source")
            rows = [line for line in lines[1:] if len(line) == len(lines[0])]
            controls = [int(line[index]) for line in rows if line[source] == "control" and line[index].isdigit()]
    mask = (data > 0) & ~np.isin(data, controls)
    count = len(np.unique(data[mask]))
    more = f", {len(controls)} control regions left out" if controls else ""
    return mask, [f"Reference: {count} numbered lesions, all taken as lesion{more}."]


def _labelled(data: np.ndarray, *, what: str, path: Path) -> MaskArray:
    values = np.unique(data)
    if values[0] < 0 or not np.array_equal(values, np.round(values)) or len(values) > _MOST_BRAIN_LABELS:
        raise ImageFileError(
            f"Expected a mask of whole numbers from 0 as {what}, found {len(values)} values, {_shown(values)}, in {path}."
        )
    return data > 0


def _shown(values: Sequence[float] | np.ndarray) -> str:
    shown = [f"{value:g}" for value in values[:6]]
    return ", ".join(shown) + (", ..." if len(values) > 6 else "")


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
