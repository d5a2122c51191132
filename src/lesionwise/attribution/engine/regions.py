"""Sums of every draw over regions of the scan (the lesion, its rim), so that their errors come from the draws themselves.

Voxels of one draw are not independent: the error of a sum cannot be had from the errors of its voxels.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lesionwise.attribution.engine.site import Site
from lesionwise.geometry.box import Box


@dataclass(eq=False)
class RegionSums:
    """Per draw, the derivative summed over each region of a site.

    `weights` (regions, channels, i, j, k) on `box` lie on the grid that the draws come on: the scan's, or the network's
    where the way back only moves values; what the way back would multiply by is in them then.
    """

    weights: Tensor
    box: Box
    draws: list[Float[Tensor, "regions channels"]] = field(default_factory=list)

    @classmethod
    def of(cls, site: Site, like: Tensor) -> "RegionSums | None":
        """For the site's regions and draws of a derivative; None if it has none."""
        if not site.regions or site.scan_box.is_empty:
            return None
        masks = np.zeros((len(site.regions), *site.scan_box.shape), dtype=np.float32)
        for mask, voxels in zip(masks, site.regions, strict=True):
            local = voxels - np.asarray(site.scan_box.start)
            known = ((local >= 0) & (local < site.scan_box.shape)).all(axis=1)
            mask[tuple(local[known].T)] = 1.0
        weights, box = torch.from_numpy(masks).to(like)[:, None], site.scan_box
        if site.moves_only:
            if site.scan_passes is not None:
                weights = weights * site.scan_passes[(..., *box.slices)].to(weights)
            shape = weights.shape[:2]
            weights = site.pull.forward(weights.reshape(-1, *box.shape))
            weights, box = weights.reshape(*shape, *weights.shape[1:]), site.box
            weights = weights * site.scale.to(weights)
        return cls(*_cropped(weights.to(like), box))

    def add(self, data: Float[Tensor, "channels i j k"], box: Box) -> None:
        """Takes a draw; it is 0 outside `box`."""
        shared = self.box.intersection(box)
        if shared.is_empty:
            self.draws.append(data.new_zeros((len(self.weights), len(data)), dtype=torch.float64))
            return
        weights = self.weights[(..., *shared.relative_to(self.box).slices)].double()
        values = data[(slice(None), *shared.relative_to(box).slices)].double()
        self.draws.append((weights * values).sum(dim=(2, 3, 4)))

    def summary(self, *, antithetic: bool) -> tuple[Float[np.ndarray, "regions channels"], np.ndarray]:
        """Mean over the draws and its standard error, NaN for fewer than two independent units."""
        draws = torch.stack(self.draws).cpu().numpy()
        units = draws
        if antithetic and len(draws) > 1:
            paired = draws[: len(draws) // 2 * 2]
            units = 0.5 * (paired[0::2] + paired[1::2])
        if len(units) < 2:
            return draws.mean(axis=0), np.full(draws.shape[1:], np.nan)
        return draws.mean(axis=0), units.std(axis=0, ddof=1) / np.sqrt(len(units))


def _cropped(weights: Tensor, box: Box) -> tuple[Tensor, Box]:
    """The part that is not 0: lesions are small and windows are large."""
    hits = (weights != 0).any(dim=0).any(dim=0).cpu().numpy()
    if not hits.any():
        return weights[..., :1, :1, :1] * 0, Box(box.start, (box.start[0] + 1, box.start[1] + 1, box.start[2] + 1))
    inner = Box.around(np.argwhere(hits))
    return weights[(..., *inner.slices)].contiguous(), inner.shifted(box.start)
