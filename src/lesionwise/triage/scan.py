"""One explained scan as triage looks at it, whether it is still in memory or read back from its output folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import ndimage

from lesionwise.errors import InputError
from lesionwise.geometry.affine import to_mm, voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import depth_mm, distance_to_mm, signed_distance_mm
from lesionwise.geometry.volume import Case, ScanName
from lesionwise.io.cases import read_case
from lesionwise.io.derivative import ScanOutput, read_why
from lesionwise.io.masks import ReferenceRule
from lesionwise.saliency import SaliencyMap
from lesionwise.segmenter import zscore
from lesionwise.types import Affine, LabelArray, MaskArray, Millimetres, VoxelArray
from lesionwise.units import Explained

_FLUID_NEAR_MM = 30.0  # looked for first; where a lesion lies farther from fluid, everywhere
REACH_MM = 10.0
"""How far around a lesion its surroundings are looked at."""

JUDGED = ("TP", "FP", "US")
"""Outcomes of predicted lesions; FN and TN are not predictions and are not triaged."""


@dataclass(frozen=True, eq=False)
class TriageScan:
    """Everything that the features are computed from.

    `image` is the scan's channels z-scored in the head (None if the images are not at hand: image and place features are
    then missing), `maps` the saliency maps of one method by lesion. `sided` is as of a `Case`. `why` is
    the table of `lesionwise why`, where it was asked.
    `facts` name the segmenter and the method.
    """

    name: ScanName
    channels: tuple[str, ...]
    affine: Affine
    probability: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    lesions: pd.DataFrame
    maps: Mapping[int, SaliencyMap]
    facts: Mapping[str, object]
    threshold: float
    case: Case | None = None
    notes: tuple[str, ...] = ()
    sided: bool = True
    why: pd.DataFrame | None = None

    @classmethod
    def of(
        cls,
        scan: "ScanOutput | Explained | TriageScan",
        *,
        method: str | None = None,
        images: bool = True,
        why: pd.DataFrame | None = None,
    ) -> "TriageScan":
        """The scan of an output folder or of a run in memory; `method` picks among several maps of a lesion.

        `why` is the table of a run in memory; an output folder has its own.

        `images` False leaves those of an output folder unread where probability and instances are enough.
        """
        if isinstance(scan, TriageScan):
            return scan
        return (
            replace(cls._of_explained(scan), why=why)
            if isinstance(scan, Explained)
            else cls._of_output(scan, method=method, images=images)
        )

    @classmethod
    def _of_explained(cls, explained: Explained) -> "TriageScan":
        settings = explained.settings
        threshold = settings.threshold if settings.threshold is not None else explained.model["Threshold"]
        return cls(
            name=explained.case.name,
            channels=tuple(explained.model["Channels"]),
            affine=explained.case.image.affine,
            probability=explained.prediction,
            mask=explained.mask,
            labels=explained.labels,
            lesions=explained.lesions,
            maps=explained.maps,
            facts=_facts(explained.model, settings.method.name, explained.maps),
            threshold=float(threshold),
            case=explained.case,
            sided=explained.case.sided,
        )

    @classmethod
    def _of_output(cls, scan: ScanOutput, *, method: str | None, images: bool) -> "TriageScan":
        known = sorted({desc for maps in scan.maps.values() for desc in maps})
        chosen = method if method in known else (known[0] if known else method)
        maps = {label: found[chosen] for label, found in scan.maps.items() if chosen in found}
        case, notes = _case_of(scan) if images else (None, ())
        return cls(
            name=scan.name,
            channels=scan.channels,
            affine=scan.affine,
            probability=scan.probability,
            mask=scan.mask,
            labels=scan.labels,
            lesions=scan.lesions,
            maps=maps,
            facts=_facts(scan.facts.get("Model", {}), chosen or "none", maps),
            threshold=float(scan.facts.get("Threshold", 0.5)),
            case=case,
            notes=notes,
            sided=scan.facts.get("LeftRightKnown") is not False,
            why=read_why(scan.files),
        )

    def with_instances(self, labels: LabelArray, lesions: pd.DataFrame) -> "TriageScan":
        """The same scan with other instances and no maps; what follows from its images alone is not computed again."""
        other = replace(self, labels=labels, lesions=lesions, maps={})
        for name in ("image", "head_depth_mm", "head_span_mm", "fluid_mm"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]  # where cached_property keeps it
        return other

    @property
    def sizes_mm(self) -> Millimetres:
        """Edge lengths of a voxel."""
        return voxel_sizes_mm(self.affine)

    @cached_property
    def image(self) -> np.ndarray | None:
        """The model's channels (channels, i, j, k), z-scored in the head, 0 outside; None without images."""
        if self.case is None:
            return None
        picked = [self.case.image.channels.index(name) for name in self.channels]
        return zscore(self.case.image.data[picked], self.case.head)

    @cached_property
    def head_depth_mm(self) -> np.ndarray | None:
        """Distance (i, j, k) to the border of the head, 0 outside; None without images."""
        if self.case is None:
            return None
        return depth_mm(self.case.head, self.sizes_mm).astype(np.float32)

    @cached_property
    def head_span_mm(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Lowest and highest corner (x, y, z) of the head's box in RAS mm; None without images."""
        if self.case is None:
            return None
        head = self.case.head
        spans = [np.flatnonzero(head.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        mm = to_mm(np.array([[s[0] for s in spans], [s[-1] for s in spans]], dtype=float), self.affine)
        return mm.min(axis=0), mm.max(axis=0)

    @cached_property
    def fluid_mm(self) -> np.ndarray | None:
        """Distance (i, j, k) to the nearest fluid: voxels in the head darker than -1 SD on every channel.

        Judged by intensity on every scan, so that a model fitted where tissue is known means the same where it is not.
        nan everywhere if the head holds none; None without images. May be infinite outside the head, far from lesions.
        """
        image = self.image
        if self.case is None or image is None:
            return None
        fluid = self.case.head & np.all(image < -1.0, axis=0)
        if not fluid.any():
            return np.full(fluid.shape, np.nan, dtype=np.float32)
        near = distance_to_mm(fluid, self.sizes_mm, reach_mm=_FLUID_NEAR_MM)
        asked = self.case.head | (self.labels != 0)
        complete = bool(np.isfinite(near[asked]).all())
        return (near if complete else distance_to_mm(fluid, self.sizes_mm)).astype(np.float32)

    @cached_property
    def _boxes(self) -> list[tuple[slice, slice, slice] | None]:
        return ndimage.find_objects(self.labels)

    def voxels(self, label: int) -> VoxelArray:
        """Voxels (n, 3) of a lesion. Raises InputError if the scan has no such lesion."""
        found = self._boxes[label - 1] if 0 < label <= len(self._boxes) else None
        if found is None:
            raise InputError(f"Expected lesion {label} in the instances of {self.name.stem}, found none.")
        return np.argwhere(self.labels[found] == label) + np.array([s.start for s in found])

    def judged(self) -> pd.DataFrame:
        """Rows of the predicted lesions: FN and control regions are no predictions."""
        outcome = self.lesions["outcome"]
        return self.lesions[outcome.isna() | outcome.isin(JUDGED)]

    def row(self, label: int) -> dict[Any, Any]:
        """A lesion's row of the lesion table."""
        found: dict[Any, Any] = self.lesions[self.lesions["lesion"] == label].iloc[0].to_dict()
        return found

    def view(self, label: int) -> "LesionView":
        """A lesion and `REACH_MM` around it."""
        voxels = self.voxels(label)
        margin = int(np.ceil(REACH_MM / min(self.sizes_mm)))
        shape = self.labels.shape
        box = Box.around(voxels, margin=margin, shape=(int(shape[0]), int(shape[1]), int(shape[2])))
        labels = self.labels[box.slices]
        saliency = self.maps.get(label)
        return LesionView(
            label=label,
            voxels=voxels,
            box=box,
            sizes_mm=self.sizes_mm,
            inside=labels == label,
            others=(labels != 0) & (labels != label),
            probability=self.probability[box.slices].astype(np.float64),
            image=None if self.image is None else self.image[(slice(None), *box.slices)].astype(np.float64),
            head=None if self.case is None else self.case.head[box.slices],
            map=None if saliency is None else _laid_on(saliency, box),
        )


@dataclass(frozen=True, eq=False)
class LesionView:
    """A lesion with its surroundings, cut out; arrays are (i, j, k) or (channels, i, j, k) on `box`."""

    label: int
    voxels: VoxelArray
    box: Box
    sizes_mm: Millimetres
    inside: MaskArray
    others: MaskArray
    probability: Float[np.ndarray, "i j k"]
    image: Float[np.ndarray, "channels i j k"] | None
    head: Bool[np.ndarray, "i j k"] | None
    map: Float[np.ndarray, "channels i j k"] | None

    @cached_property
    def distance_mm(self) -> Float[np.ndarray, "i j k"]:
        """Signed distance to the lesion's border in mm, negative inside."""
        return signed_distance_mm(self.inside, self.sizes_mm)

    def shell(self, a: float, b: float) -> MaskArray:
        """Voxels at distance (a, b] mm outside the lesion, without other lesions and, if known, without what is no head."""
        shell = (self.distance_mm > a) & (self.distance_mm <= b) & ~self.others
        return shell if self.head is None else shell & self.head


def _laid_on(saliency: SaliencyMap, box: Box) -> np.ndarray:
    """The map on another box, 0 where it does not reach."""
    data = np.zeros((len(saliency.channels), *box.shape))
    common = saliency.box.intersection(box)
    if not common.is_empty:
        source = saliency.data[(slice(None), *common.relative_to(saliency.box).slices)]
        data[(slice(None), *common.relative_to(box).slices)] = source
    return data


def _facts(model: Mapping[str, object], method: str, maps: Mapping[int, SaliencyMap]) -> dict[str, object]:
    first = next(iter(maps.values()), None)
    provenance = {} if first is None else first.provenance
    return {
        "segmenter": model.get("Name", "unknown"),
        "fingerprint": model.get("Fingerprint", "unknown"),
        "method": method,
        "target": provenance.get("Target", "n/a"),
        "samples": provenance.get("Samples"),
    }


def _case_of(scan: ScanOutput) -> tuple[Case | None, tuple[str, ...]]:
    """The images the scan was explained from, if they are still where they were."""
    images = {name: path for name, path in scan.sources.items() if name in scan.channels}
    absent = [name for name in scan.channels if name not in images or not images[name].is_file()]
    if absent:
        return None, (
            f"The images of {scan.name.stem} ({', '.join(absent)}) are not where they were: no image features.",
        )
    reference = scan.sources.get("reference")
    known = reference if reference is not None and reference.is_file() else None
    try:
        rule = ReferenceRule.of_facts(scan.facts.get("ReferenceRule"))
        return read_case(dict(images), reference=known, reference_rule=rule, name=scan.name, resample=True), ()
    except InputError as error:
        return None, (f"The images of {scan.name.stem} cannot be read again, so there are no image features: {error}",)
