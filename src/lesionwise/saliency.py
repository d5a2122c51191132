"""One lesion's map at rest: signed, unscaled, on a crop of the scan's grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lesionwise.errors import InputError
from lesionwise.geometry.affine import shifted_affine
from lesionwise.geometry.box import Box
from lesionwise.types import Affine, MapArray, Shape


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """What drove one lesion, voxel by voxel.

    `data` (channels, i, j, k) is float32, signed and never normalised, in `units`; positive values speak for the
    lesion. `box` is where it lies on the scan's grid (outside of it the map is 0) and `scan_affine` places that grid.
    `se` is the Monte-Carlo standard error per voxel, None for methods without draws. `provenance` is what the sidecar
    holds: method, target, sigma, samples, seed, model. `sided` is False where the scan's header does not say where it lies.
    """

    data: MapArray
    box: Box
    scan_affine: Affine
    channels: tuple[str, ...]
    units: str
    se: MapArray | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sided: bool = True

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.box.shape))
        largest = ", ".join(
            f"{name} {np.abs(part).max():.3g}" for name, part in zip(self.channels, self.data, strict=True)
        )
        return f"SaliencyMap({size} voxels from {self.box.start}; largest |M|: {largest}; {self.units})"

    def __post_init__(self) -> None:
        if self.data.shape != (len(self.channels), *self.box.shape):
            raise InputError(
                f"Expected a map of shape {(len(self.channels), *self.box.shape)}, found {self.data.shape}."
            )

    @property
    def affine(self) -> Affine:
        """Takes voxels of the crop to RAS mm: a viewer that opens the crop over its scan puts it on the lesion."""
        return shifted_affine(self.scan_affine, self.box.start)

    @property
    def snr(self) -> np.ndarray | None:
        """|M| / SE per voxel (0 where both are 0), None without standard error."""
        if self.se is None:
            return None
        return np.divide(np.abs(self.data), self.se, out=np.zeros_like(self.data), where=self.se > 0)

    def channel(self, name: str) -> np.ndarray:
        """One channel (i, j, k) by name."""
        return self.data[self.channels.index(name)]

    def placeable(self, shape: Shape) -> "SaliencyMap":
        """The map as a file can hold it: of a scan that lies nowhere, on the whole grid, as its header cannot place a crop."""
        if self.sided:
            return self
        se = None if self.se is None else replace(self, data=self.se).on_grid(shape)
        return replace(self, data=self.on_grid(shape), se=se, box=Box.whole(shape))

    def on_grid(self, shape: tuple[int, int, int]) -> np.ndarray:
        """The map (channels, i, j, k) on the whole scan, 0 outside the crop."""
        whole = np.zeros((len(self.channels), *shape), dtype=self.data.dtype)
        whole[(slice(None), *self.box.slices)] = self.data
        return whole
