"""Where an instance lies: which logits its target reads, which windows those need, and how derivatives come back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.geometry.grids import AbstractGridMap
from lesionwise.segmenter import Placement
from lesionwise.types import VoxelArray
from lesionwise.windows import WindowGrid

VoxelSet = Int[np.ndarray, "_ 3"]
"""Voxels of one instance among several, each with a number of voxels of its own."""


@dataclass(frozen=True, eq=False)
class Readout:
    """How the scan's voxels Omega read the network's fused logits.

    `part` takes fused logits on `source` (network's grid) to logits on `box` (scan's grid, around Omega).
    """

    voxels: VoxelArray
    part: AbstractGridMap
    source: Box
    box: Box

    @classmethod
    def of(cls, to_scan: AbstractGridMap, voxels: VoxelArray) -> "Readout":
        """The part of `to_scan` that Omega needs."""
        box = Box.around(voxels)
        part, source = to_scan.restrict(box)
        return cls(voxels, part, source, box)

    def read(self, fused: Float[Tensor, "outputs i j k"]) -> Float[Tensor, "outputs voxels"]:
        """Logits at Omega from fused logits on `source`."""
        i, j, k = self._index
        return self.part.forward(fused)[:, i, j, k]

    def spread(self, seeds: Float[Tensor, "outputs voxels"]) -> Float[Tensor, "outputs i j k"]:
        """Adjoint of `read`: seeds at Omega to a cotangent on `source`."""
        i, j, k = self._index
        on_scan = seeds.new_zeros((len(seeds), *self.box.shape))
        on_scan[:, i, j, k] = seeds
        return self.part.adjoint(on_scan)

    def subset(self, indices: Sequence[int]) -> "Readout":
        """How some of the voxels of Omega read the logits."""
        voxels = self.voxels[list(indices)]
        box = Box.around(voxels)
        part, source = self.part.restrict(box.relative_to(self.box))
        return Readout(voxels, part, source.shifted(self.source.start), box)

    @property
    def _index(self) -> tuple[Tensor, Tensor, Tensor]:
        i, j, k = (torch.from_numpy(np.ascontiguousarray(axis)) for axis in (self.voxels - self.box.start).T)
        return i, j, k


@dataclass(frozen=True, eq=False)
class Site:
    """One instance over one window grid.

    `windows` meet it; `box` is what they cover of the volume (network's grid); `pull` takes `scan_box` to `box`.
    `scale` is each channel's in-head SD in the units fed to the network, 0 where preprocessing clipped the intensity;
    `scan_passes` is False where it did so on the scan's grid.
    """

    number: int
    readout: Readout
    windows: tuple[int, ...]
    box: Box
    scan_box: Box
    pull: AbstractGridMap
    scale: Float[Tensor, "channels _ _ _"]
    scan_passes: Bool[Tensor, "*_ _ _ _"] | None = None
    regions: tuple[VoxelSet, ...] = ()

    @property
    def voxels(self) -> VoxelArray:
        """Omega, on the scan's grid."""
        return self.readout.voxels

    @property
    def moves_only(self) -> bool:
        """True if going back to the scan's grid moves values but never mixes them (identity, flip, crop)."""
        return self.pull.is_identity or bool(getattr(self.pull, "is_gather", False))

    def is_alone_in(self, grid: WindowGrid) -> bool:
        """True if the instance is looked at through one window that is not fused with others (an approximation)."""
        return any(w >= len(grid.boxes) - grid.alone for w in self.windows)

    def pull_back(
        self, gradient: Float[Tensor, "*lead channels i j k"], box: Box, *, power: int = 1
    ) -> tuple[Float[Tensor, "*lead channels i2 j2 k2"], Box]:
        """Derivative on `box` of the network's grid -> scan's grid, times (SD of the channel) ** power."""
        part, source = self.pull.restrict(box.relative_to(self.box))
        if power:
            inside = self.scale if self.scale.shape[1:] == (1, 1, 1) else self.scale[(slice(None), *box.slices)]
            gradient = gradient * inside.to(gradient) ** power
        pulled, place = part.adjoint(gradient), source.shifted(self.scan_box.start)
        if power and self.scan_passes is not None:
            pulled = pulled * self.scan_passes[(..., *place.slices)].to(pulled)
        return pulled, place


def locate(placement: Placement, grid: WindowGrid, voxel_sets: Sequence[VoxelSet]) -> list[Site]:
    """One site per instance.

    Raises InputError if an instance has no voxel or lies outside the scan.
    """
    shape = placement.to_scan.target_shape
    sites = []
    for number, voxels in enumerate(voxel_sets):
        unique = np.unique(np.asarray(voxels), axis=0)
        if len(unique) == 0:
            raise InputError(f"Instance {number + 1} has no voxels; expected at least one.")
        if (unique < 0).any() or (unique >= np.asarray(shape)).any():
            raise InputError(f"Instance {number + 1} reaches outside the scan of {shape} voxels.")
        sites.append(_site(placement, grid, number, unique))
    return sites


def _site(placement: Placement, grid: WindowGrid, number: int, voxels: VoxelArray) -> Site:
    readout = Readout.of(placement.to_scan, voxels)
    windows: list[int] = []
    if not readout.source.is_empty:
        # Random positive seeds: their adjoint is nonzero wherever a logit is read, whatever the signs of the weights.
        seeds = torch.from_numpy(np.random.default_rng(0).uniform(1, 2, (1, len(voxels))))
        touched = np.argwhere(readout.spread(seeds)[0].numpy() != 0) + readout.source.start
        windows = grid.meeting_voxels(touched)
    return _seen(placement, grid, number, readout, windows)


def centred(placement: Placement, grid: WindowGrid, sites: Sequence[Site]) -> tuple[WindowGrid, list[Site]]:
    """An approximation: every instance is looked at through one window around it, instead of through the fused ones.

    An instance that is larger than the window keeps the fused ones. Returns the grid with the added windows, and sites.
    """
    fits = [
        site
        for site in sites
        if site.windows and all(n <= w for n, w in zip(site.readout.source.shape, grid.window, strict=True))
    ]
    wider = grid.with_windows_around([site.readout.source for site in fits])
    windows = {site.number: len(grid.boxes) + place for place, site in enumerate(fits)}
    return wider, [
        _seen(placement, wider, site.number, site.readout, [windows[site.number]]) if site.number in windows else site
        for site in sites
    ]


def _seen(placement: Placement, grid: WindowGrid, number: int, readout: Readout, windows: Sequence[int]) -> Site:
    whole = Box.whole(grid.shape)
    boxes = [grid.boxes[w].shifted(_negative(grid.offset)).intersection(whole) for w in windows]
    box = boxes[0] if boxes else Box((0, 0, 0), (0, 0, 0))
    for other in boxes[1:]:
        box = box.union(other)
    pull, scan_box = placement.to_network.restrict(box)
    scale = placement.scale.reshape(-1, 1, 1, 1)
    if placement.passes is not None:
        scale = scale * placement.passes.to(scale)
    return Site(number, readout, tuple(windows), box, scan_box, pull, scale, placement.scan_passes)


def _negative(offset: tuple[int, int, int]) -> tuple[int, int, int]:
    return -offset[0], -offset[1], -offset[2]
