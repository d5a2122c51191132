"""One explained scan as pictures need it: everything on one grid whose axes run right, anterior, superior."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesionwise.errors import LesionwiseError
from lesionwise.geometry.affine import closest_axes, same_grid, to_mm, voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import ScanFiles, ScanOutput, TriageOutput, read_saliency, read_triage, read_why
from lesionwise.io.masks import ReferenceRule, read_reference
from lesionwise.io.nifti import read_file_image
from lesionwise.io.written import check_images, read_sound_scan
from lesionwise.saliency import SaliencyMap
from lesionwise.types import Affine, Shape


@dataclass(frozen=True, eq=False)
class Turn:
    """Axis swaps and flips (no interpolation) that take a scan's grid to the closest right-anterior-superior one."""

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    shape: Shape

    @classmethod
    def of(cls, affine: Affine, shape: Shape) -> "Turn":
        """The turn for a scan, by the same rule as the networks' grids."""
        along, signs = closest_axes(affine)
        a, b, c = (along.index(world) for world in range(3))
        return cls((a, b, c), (signs[a] < 0, signs[b] < 0, signs[c] < 0), shape)

    def array(self, data: np.ndarray) -> np.ndarray:
        """The last three axes turned."""
        lead = data.ndim - 3
        turned = data.transpose(*range(lead), *(lead + axis for axis in self.order))
        flips = tuple(lead + axis for axis, flip in enumerate(self.flipped) if flip)
        return np.flip(turned, flips) if flips else turned

    @property
    def to_source(self) -> Affine:
        """Takes turned voxel indices to the scan's own."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for axis, (voxel, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            matrix[voxel, axis] = -1 if flip else 1
            matrix[voxel, 3] = self.shape[voxel] - 1 if flip else 0
        return matrix

    def box(self, box: Box) -> Box:
        """Where a box of the scan's grid lies after the turn."""
        start, stop = [], []
        for voxel, flip in zip(self.order, self.flipped, strict=True):
            a, b, n = box.start[voxel], box.stop[voxel], self.shape[voxel]
            start.append(n - b if flip else a)
            stop.append(n - a if flip else b)
        return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


@dataclass(frozen=True)
class LikelyMiss:
    """A place where a lesion may have been missed; `voxel` is None where it lies outside the scan.

    `row` is its row of triage's table;
    `outcome` is "miss" on a missed lesion of the reference, "other" elsewhere, None without a reference.
    """

    rank: int
    mm: tuple[float, float, float]
    voxel: Shape | None
    volume_mm3: float
    row: Mapping[Any, Any]
    outcome: str | None


@dataclass(frozen=True, eq=False)
class ScanView:
    """A scan ready to be drawn; maps are read from their files one at a time, when asked for.

    `images` holds the input images that could still be found on the scan's grid; `notes` says which could not.
    """

    files: ScanFiles
    affine: Affine
    turn: Turn
    images: Mapping[str, np.ndarray]
    probability: np.ndarray
    labels: np.ndarray
    reference: np.ndarray | None
    lesions: pd.DataFrame
    columns: Mapping[str, Any]
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    triage: TriageOutput | None = None
    why: pd.DataFrame | None = None

    @property
    def name(self) -> ScanName:
        """Which scan this is."""
        return self.files.name

    @property
    def shape(self) -> Shape:
        """Grid size in voxels, right-anterior-superior."""
        a, b, c = self.labels.shape
        return a, b, c

    @property
    def voxel_sizes_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel."""
        return voxel_sizes_mm(self.affine)

    @property
    def sided(self) -> bool:
        """False where the scan's header does not say which side is right: no side is then named."""
        return self.facts.get("LeftRightKnown") is not False

    def place_mm(self, label: int) -> tuple[float, float, float]:
        """The middle of one instance's voxels in the scan's own coordinates, mm."""
        voxels = self.voxels(label)
        if not len(voxels):
            return (float("nan"),) * 3
        x, y, z = to_mm(voxels.mean(axis=0, keepdims=True), self.affine)[0]
        return float(x), float(y), float(z)

    @property
    def tilt_deg(self) -> float:
        """Largest angle between a voxel axis and its world axis: 0 for a straight scan, up to 45 for an oblique one."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(np.degrees(np.arccos(np.clip(np.abs(np.diag(directions)), 0, 1)).max()))

    @property
    def channels(self) -> tuple[str, ...]:
        """The model's input channels."""
        return tuple(self.facts.get("Channels", ())) or tuple(self.images)

    @cached_property
    def saliency_channels(self) -> tuple[str, ...]:
        """Channels of the maps behind the table's columns: the model's, or the one of methods that map no input."""
        for label, desc in self.map_files:
            if desc == self.descs[0] and (found := self.saliency(label, desc)) is not None:
                return found.channels
        return self.channels

    @property
    def descs(self) -> tuple[str, ...]:
        """Methods that have maps, the one behind the table's columns first."""
        found = {desc for _, desc in self.map_files}
        first = str(self.facts.get("Desc", ""))
        return tuple(sorted(found, key=lambda desc: (desc != first, "smoothgrad" not in desc, desc)))

    @cached_property
    def map_files(self) -> Mapping[tuple[int, str], Path]:
        """Files of all maps by (lesion, method)."""
        return self.files.saliency_files()

    def voxel_at(self, mm: Sequence[float]) -> Shape | None:
        """The voxel at a place in the world (x, y, z in RAS mm), None outside the scan."""
        place = np.linalg.inv(self.affine) @ (*mm, 1.0)
        if not np.isfinite(place).all():
            return None
        i, j, k = (int(index) for index in np.floor(place[:3] + 0.5))
        return (i, j, k) if all(0 <= n < size for n, size in zip((i, j, k), self.shape, strict=True)) else None

    @cached_property
    def likely_misses(self) -> tuple[LikelyMiss, ...]:
        """Where triage would look for missed lesions, likeliest first."""
        table = None if self.triage is None else self.triage.look_here
        return () if table is None else tuple(self._likely_miss(row) for row in table.to_dict("records"))

    def _likely_miss(self, row: Mapping[Any, Any]) -> LikelyMiss:
        x, y, z = (float(row[name]) for name in ("x_mm", "y_mm", "z_mm"))
        if not self.sided and all(name in row for name in "ijk"):
            source = self.affine @ np.linalg.inv(self.turn.to_source)
            x, y, z = (float(value) for value in (source @ (*(float(row[name]) for name in "ijk"), 1.0))[:3])
        outcome = row.get("outcome")
        return LikelyMiss(
            rank=int(row["rank"]),
            mm=(x, y, z),
            voxel=self.voxel_at((x, y, z)),
            volume_mm3=float(row["volume_mm3"]),
            row=row,
            outcome=outcome if isinstance(outcome, str) else None,
        )

    @cached_property
    def _voxels(self) -> Mapping[int, np.ndarray]:
        found = np.argwhere(self.labels > 0)
        labels = self.labels[tuple(found.T)]
        order = np.argsort(labels, kind="stable")
        names, starts = np.unique(labels[order], return_index=True)
        if not len(names):
            return {}
        return dict(zip((int(name) for name in names), np.split(found[order], starts[1:]), strict=True))

    def voxels(self, label: int) -> np.ndarray:
        """Voxel indices (n, 3) of one instance, in array order."""
        return self._voxels.get(label, np.zeros((0, 3), dtype=int))

    def saliency(self, label: int, desc: str) -> SaliencyMap | None:
        """The map of one lesion by one method on this scene's grid, None if there is none."""
        path = self.map_files.get((label, desc))
        if path is None:
            return None
        found = read_saliency(path)
        return SaliencyMap(
            np.ascontiguousarray(self.turn.array(found.data)),
            self.turn.box(found.box),
            self.affine,
            found.channels,
            found.units,
            None if found.se is None else np.ascontiguousarray(self.turn.array(found.se)),
            found.provenance,
        )


def read_scene(out: Path, name: ScanName) -> ScanView:
    """One finished scan of an output folder, as a scene.

    Raises InputError if it is not there, was not finished, or has files that are not as they were written.
    """
    return scene_of(read_sound_scan(Path(out), name))


def scene_of(scan: ScanOutput) -> ScanView:
    """A scan turned right-anterior-superior.

    An input image that has moved away or no longer lies on the scan's grid is left out and named in `notes`: the report
    is then drawn without it.
    """
    check_images(scan)
    shape, triage = scan.labels.shape, read_triage(scan.files)
    turn = Turn.of(scan.affine, (shape[0], shape[1], shape[2]))
    images: dict[str, np.ndarray] = {}
    reference, notes = None, []
    for what, path in scan.sources.items():
        if what not in (*scan.channels, "reference"):
            continue
        data = _reference(scan, path) if what == "reference" else _on_grid(path, scan.affine, shape)
        if data is None:
            notes.append(f"The {what} image could not be found on the scan's grid any more and is not shown.")
        elif what == "reference":
            reference = turn.array(data)
        else:
            images[what] = turn.array(data)
    return ScanView(
        scan.files,
        scan.affine @ turn.to_source,
        turn,
        {channel: images[channel] for channel in scan.channels if channel in images},
        turn.array(scan.probability),
        turn.array(scan.labels),
        reference,
        _with_triage(scan.lesions, triage),
        scan.columns,
        scan.facts,
        tuple(notes),
        triage,
        read_why(scan.files),
    )


def _with_triage(lesions: pd.DataFrame, triage: TriageOutput | None) -> pd.DataFrame:
    """The table with the verdicts of triage, if there are any."""
    if triage is None:
        return lesions
    verdicts = triage.verdicts.drop(columns=["outcome"], errors="ignore")
    return lesions.merge(verdicts, on="lesion", how="left", validate="one_to_one")


def _reference(scan: ScanOutput, path: Path) -> np.ndarray | None:
    shape = scan.labels.shape
    try:
        rule = ReferenceRule.of_facts(scan.facts.get("ReferenceRule"))
        like = ((shape[0], shape[1], shape[2]), scan.affine)
        return read_reference(path, like=like, rule=rule, resample=True)[0]
    except LesionwiseError:
        return None


def _on_grid(path: Path, affine: Affine, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        image = read_file_image(path)
    except LesionwiseError:
        return None
    grid = (shape[0], shape[1], shape[2])
    return image.data if same_grid(image.shape, image.affine, (grid, affine)) else None
