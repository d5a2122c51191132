"""Images at rest: NumPy arrays with the affine that places them, and the case (one scan) that they make up."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lesionwise.errors import GridMismatchError, InputError
from lesionwise.types import Affine, ImageArray, MaskArray, Millimetres, Shape, VoxelArray

GRID_TOLERANCE_MM = 1e-2
"""Largest shift of any corner of a grid, in mm, under which two affines count as the same grid."""


@dataclass(frozen=True)
class Box:
    """A block of voxels: `start` inclusive, `stop` exclusive, both in voxels of one grid."""

    start: Shape
    stop: Shape

    def __post_init__(self) -> None:
        if any(b < a for a, b in zip(self.start, self.stop, strict=True)):
            raise InputError(f"A box must not end before it starts, but it goes from {self.start} to {self.stop}.")

    @classmethod
    def whole(cls, shape: Shape) -> "Box":
        """The box that covers a grid of this shape."""
        return cls((0, 0, 0), shape)

    @classmethod
    def around(cls, voxels: VoxelArray, *, margin: int = 0, shape: Shape | None = None) -> "Box":
        """Smallest box that holds all voxels (n, 3), grown by `margin` voxels and cut at the grid's edge."""
        low, high = voxels.min(axis=0) - margin, voxels.max(axis=0) + margin + 1
        if shape is not None:
            low, high = np.maximum(low, 0), np.minimum(high, shape)
        return cls(_triple(low), _triple(high))

    @property
    def shape(self) -> Shape:
        """Extent in voxels."""
        return _triple(np.subtract(self.stop, self.start))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index for the last three axes of an array."""
        a, b = self.start, self.stop
        return (slice(a[0], b[0]), slice(a[1], b[1]), slice(a[2], b[2]))

    @property
    def is_empty(self) -> bool:
        """True if the box holds no voxel."""
        return any(a >= b for a, b in zip(self.start, self.stop, strict=True))

    def shifted(self, offset: Shape) -> "Box":
        """The same box, moved by `offset` voxels."""
        return Box(_triple(np.add(self.start, offset)), _triple(np.add(self.stop, offset)))

    def relative_to(self, other: "Box") -> "Box":
        """This box in the coordinates of an array cut out by `other`."""
        return self.shifted(_triple(np.negative(other.start)))

    def intersection(self, other: "Box") -> "Box":
        """What both boxes share; empty if they do not meet."""
        start = np.maximum(self.start, other.start)
        return Box(_triple(start), _triple(np.maximum(start, np.minimum(self.stop, other.stop))))

    def union(self, other: "Box") -> "Box":
        """Smallest box that holds both."""
        return Box(_triple(np.minimum(self.start, other.start)), _triple(np.maximum(self.stop, other.stop)))


@dataclass(frozen=True, eq=False)
class Volume:
    """An image of one or more channels on one grid.

    `data` is (channels, i, j, k) float32; `affine` takes voxel indices to RAS millimetres.
    """

    data: ImageArray
    affine: Affine
    channels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or len(self.channels) != self.data.shape[0]:
            raise InputError(
                f"Expected one name per channel of a 4-D array, found {self.channels} for {self.data.shape}."
            )

    @property
    def shape(self) -> Shape:
        """Grid size in voxels."""
        return _triple(self.data.shape[1:])

    @property
    def voxel_sizes_mm(self) -> Millimetres:
        """Edge lengths of a voxel."""
        return voxel_sizes_mm(self.affine)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of a voxel."""
        return voxel_volume_mm3(self.affine)

    def channel(self, name: str) -> np.ndarray:
        """One channel (i, j, k) by name."""
        return self.data[self.channels.index(name)]

    def crop(self, box: Box) -> "Volume":
        """The part inside `box`, with the affine moved so that it stays where it was in the world."""
        return replace(self, data=self.data[(slice(None), *box.slices)], affine=shifted_affine(self.affine, box.start))


@dataclass(frozen=True)
class ScanName:
    """BIDS entities of one scan."""

    subject: str = "01"
    session: str | None = None
    acquisition: str | None = None
    run: str | None = None

    @property
    def stem(self) -> str:
        """`sub-X[_ses-Y][_acq-A][_run-R]`, with which every file of the scan begins."""
        parts = [("sub", self.subject), ("ses", self.session), ("acq", self.acquisition), ("run", self.run)]
        return "_".join(f"{key}-{value}" for key, value in parts if value is not None)

    @property
    def folder(self) -> str:
        """`sub-X/[ses-Y/]anat`, relative to the data set."""
        session = f"ses-{self.session}/" if self.session is not None else ""
        return f"sub-{self.subject}/{session}anat"


@dataclass(frozen=True, eq=False)
class Case:
    """One scan: its channels, the head mask, and the reference segmentation if there is one, on one grid.

    `head` says which voxels are inside the (skull-stripped) head: normalisation constants, noise and percentiles are
    taken there. `reference` is None if no reference was given, and empty (all False) if it has no lesions. `tissue`
    holds optional label masks such as `white_matter`. `notes` are sentences about how the case was read and
    `sources` the files it was read from, both for sidecars.
    """

    image: Volume
    head: MaskArray
    reference: MaskArray | None = None
    name: ScanName = field(default_factory=ScanName)
    tissue: Mapping[str, MaskArray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        masks = {"head mask": self.head, "reference": self.reference, **self.tissue}
        for what, mask in masks.items():
            if mask is not None and mask.shape != self.image.shape:
                raise GridMismatchError(
                    f"The {what} must have the image's shape {self.image.shape}, but has {mask.shape}."
                )


def voxel_sizes_mm(affine: Affine) -> Millimetres:
    """Edge lengths of a voxel in mm: the column norms of the affine."""
    a, b, c = np.linalg.norm(affine[:3, :3], axis=0)
    return float(a), float(b), float(c)


def voxel_volume_mm3(affine: Affine) -> float:
    """Volume of a voxel in mm3: |det| of the affine, right for sheared grids too."""
    return float(abs(np.linalg.det(affine[:3, :3])))


def shifted_affine(affine: Affine, start: Shape) -> Affine:
    """Affine of a crop that starts at voxel `start`."""
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ np.asarray(start, dtype=affine.dtype) + affine[:3, 3]
    return moved


def to_mm(voxels: np.ndarray, affine: Affine) -> np.ndarray:
    """World coordinates (n, 3) in RAS mm of voxel coordinates (n, 3)."""
    return np.asarray(voxels, dtype=float) @ affine[:3, :3].T + affine[:3, 3]


def grid_shift_mm(first: Affine, second: Affine, shape: Shape) -> float:
    """Largest distance in mm between the places where two affines put the corners of a grid."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    return float(np.linalg.norm(to_mm(corners, first) - to_mm(corners, second), axis=1).max())


def _triple(values) -> Shape:
    i, j, k = (int(v) for v in values)
    return i, j, k
