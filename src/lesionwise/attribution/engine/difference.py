"""What a lesion-free scan lacks: x - x' on the scan's own grid, and what it changes in the network's windows.

Contributions are (x - x')_u (R^T g)_u: the difference is made where the scan's voxels are, and only then laid on the
network's grid, so that a voxel in which scan and baseline agree has a contribution of exactly 0 (METHOD section 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.inpainting import inpaint
from lesionwise.segmenter import Placement
from lesionwise.types import MaskArray


@dataclass(frozen=True, eq=False)
class Difference:
    """x - x' (channels, *box) in units fed to the network; 0 outside `box` of the scan's grid."""

    values: Float[Tensor, "channels i j k"]
    box: Box

    @classmethod
    def of(cls, whole: Float[Tensor, "channels i j k"]) -> "Difference":
        """A difference that is given on the whole scan's grid."""
        where = torch.nonzero((whole != 0).any(dim=0)).numpy()
        box = Box.around(where) if len(where) else Box((0, 0, 0), (1, 1, 1))
        return cls(whole[(slice(None), *box.slices)].clone(), box)

    def on(self, box: Box) -> Float[Tensor, "channels i j k"]:
        """The difference on another box of the scan's grid."""
        out = self.values.new_zeros((len(self.values), *box.shape))
        both = box.intersection(self.box)
        if not both.is_empty:
            own = self.values[(slice(None), *both.relative_to(self.box).slices)]
            out[(slice(None), *both.relative_to(box).slices)] = own
        return out

    def pushed(self, scene: Scene) -> "Change":
        """What it changes in the network's input."""
        moved, reached = scene.placement.pushed(self.values, self.box)
        return Change(moved.to(scene.padded), reached)


@dataclass(frozen=True, eq=False)
class Change:
    """A difference on the network's grid, 0 outside `box` of the volume."""

    values: Float[Tensor, "channels i j k"]
    box: Box

    def taken_from(self, scene: Scene, index: int, within: Box, *, share: float) -> Float[Tensor, "channels i j k"]:
        """The scan's window `index` on a box of it, without that share of the change."""
        moved = scene.window(index, within).clone()
        local, own = scene.in_window(index, self.box, within)
        if not local.is_empty:
            moved[(slice(None), *local.slices)] -= share * self.values[(slice(None), *own.slices)]
        return moved


def without(scene: Scene, windows: Sequence[int], changes: Sequence[Change]) -> dict[int, Tensor]:
    """Windows of the scan after all of these changes were taken away."""
    whole = Box.whole(scene.grid.window)
    found = {}
    for index in windows:
        moved = scene.window(index).clone()
        for change in changes:
            local, own = scene.in_window(index, change.box, whole)
            if not local.is_empty:
                moved[(slice(None), *local.slices)] -= change.values[(slice(None), *own.slices)]
        found[index] = moved
    return found


def lesion_difference(
    placement: Placement, sites: Sequence[Site], site: Site, *, healthy: MaskArray | None, seed: int
) -> Difference:
    """What one lesion and the voxels that touch it differ in from healthy tissue; other lesions are never copied from.

    The lesion is inpainted on the scan's own grid, in its own millimetres, and only inside the head.
    """
    own = _mask(placement, [site])
    tissue = None if healthy is None else healthy & ~_mask(placement, sites)
    image = placement.scan.detach().cpu().numpy().astype(np.float32)
    filled = inpaint(
        image,
        own,
        voxel_sizes_mm=placement.scan_sizes_mm,
        healthy=tissue,
        rng=np.random.default_rng([seed, site.number]),
        grow_vox=1,
    )
    changed = torch.from_numpy(filled != image) & placement.scan_head
    scan = placement.scan.detach().cpu()
    return Difference.of(torch.where(changed, scan - torch.from_numpy(filled).to(scan), torch.zeros_like(scan)))


def given_difference(placement: Placement, baseline: Float[Tensor, "channels i j k"]) -> Difference:
    """From a lesion-free scan of the caller's, on the scan's grid in the units fed to the network."""
    if baseline.shape != placement.scan.shape:
        raise InputError(
            f"Expected a baseline on the scan's grid, {tuple(placement.scan.shape)}, found {tuple(baseline.shape)}."
        )
    scan = placement.scan.detach().cpu()
    return Difference.of(scan - baseline.detach().cpu().to(scan))


def _mask(placement: Placement, sites: Sequence[Site]) -> Bool[np.ndarray, "i j k"]:
    mask = np.zeros(tuple(placement.scan.shape[1:]), dtype=bool)
    for site in sites:
        mask[tuple(site.voxels.T)] = True
    return mask
