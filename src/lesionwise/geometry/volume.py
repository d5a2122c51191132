"""Images at rest: NumPy arrays with the affine that places them, and the case (one scan) that they make up."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lesionwise.errors import GridMismatchError, InputError
from lesionwise.geometry.affine import shifted_affine, voxel_sizes_mm, voxel_volume_mm3
from lesionwise.geometry.box import Box
from lesionwise.types import Affine, ImageArray, MaskArray, Millimetres, Shape


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


def _triple(values) -> Shape:
    i, j, k = (int(v) for v in values)
    return i, j, k
