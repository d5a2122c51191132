"""Images at rest: NumPy arrays with the affine that places them, and the case (one scan) that they make up."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lesionwise.errors import GridMismatchError, InputError
from lesionwise.geometry.affine import shifted_affine, voxel_sizes_mm, voxel_volume_mm3
from lesionwise.geometry.box import Box, triple
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

    def __repr__(self) -> str:
        size, mm = (" x ".join(f"{v:g}" for v in values) for values in (self.shape, np.round(self.voxel_sizes_mm, 3)))
        return f"Volume({', '.join(self.channels)}; {size} voxels of {mm} mm)"

    @property
    def shape(self) -> Shape:
        """Grid size in voxels."""
        return triple(self.data.shape[1:])

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


NAMED_BY = ("sub", "ses", "acq", "ce", "rec", "dir", "run", "echo", "flip", "inv", "mt", "part")
"""BIDS entities that tell the scans of a person apart, in the order of file names. What the others tell apart (space,
res, desc) are versions of one scan."""


@dataclass(frozen=True)
class ScanName:
    """BIDS entities of one scan. `more` holds those of `NAMED_BY` that have no field of their own, as (key, value)."""

    subject: str = "01"
    session: str | None = None
    acquisition: str | None = None
    run: str | None = None
    more: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_entities(cls, entities: Mapping[str, str]) -> "ScanName":
        """The name of a file with these entities ({"sub": "01", "rec": "norm", ...}); others are passed over."""
        own = ("sub", "ses", "acq", "run")
        more = tuple((key, entities[key]) for key in NAMED_BY if key in entities and key not in own)
        return cls(entities["sub"], entities.get("ses"), entities.get("acq"), entities.get("run"), more)

    @classmethod
    def of_stem(cls, stem: str) -> "ScanName":
        """The name in a file name such as `sub-01_rec-norm_run-2_lesions.tsv`. Raises InputError without `sub-`."""
        parts = stem.split(".")[0].split("_")
        entities = dict(part.split("-", 1) for part in parts if "-" in part)
        if not entities.get("sub"):
            raise InputError(f"Expected a file name that begins with sub-, found {stem}.")
        return cls.of_entities(entities)

    @property
    def entities(self) -> dict[str, str]:
        """All entities by their short names, in the order of file names."""
        own = {"sub": self.subject, "ses": self.session, "acq": self.acquisition, "run": self.run, **dict(self.more)}
        return {key: value for key in NAMED_BY if (value := own.get(key)) is not None}

    @property
    def stem(self) -> str:
        """`sub-X[_ses-Y][_acq-A][_ce-C][_rec-R][_run-N]...`, with which every file of the scan begins."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items())

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
    `sources` the files it was read from, both for sidecars. `sided` is False where nothing says which side is
    right, and `reference_rule` how the reference's values were read, both for sidecars.
    """

    image: Volume
    head: MaskArray
    reference: MaskArray | None = None
    name: ScanName = field(default_factory=ScanName)
    tissue: Mapping[str, MaskArray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    sided: bool = True
    reference_rule: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        head = f"{int(self.head.sum()) * self.image.voxel_volume_mm3 / 1000:.0f} ml of head"
        known = "no reference" if self.reference is None else f"reference of {int(self.reference.sum())} voxels"
        return f"Case({self.name.stem}: {self.image!r}, {head}, {known})"

    def __post_init__(self) -> None:
        masks = {"head mask": self.head, "reference": self.reference, **self.tissue}
        for what, mask in masks.items():
            if mask is not None and mask.shape != self.image.shape:
                raise GridMismatchError(
                    f"The {what} must have the image's shape {self.image.shape}, but has {mask.shape}."
                )
