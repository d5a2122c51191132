"""Does a map foresee what a change of the scan does to the network? (Yeh2019; METHOD section 5, point 6)

A derivative answers for small changes of the scan, a contribution for taking away what it was multiplied with: each is asked
what it answers for. On a linear network every exact explanation foresees everything (0), the reversed map and a map of
zeros nothing (1), a shuffled map next to nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from lesionwise.asking.probe import Probe
from lesionwise.asking.scan import Scan
from lesionwise.attribution.result import Attribution, Removal
from lesionwise.geometry.box import Box
from lesionwise.types import MaskArray

BLOB_MM = 1.5
"""Width (SD of a Gaussian) of the blobs that a scan is changed by: single voxels average out before a network sees them."""
CHANGE_SD = 0.5
"""Size (SD over the region) of small changes, in standard deviations of the channel in the head."""


@dataclass(frozen=True, eq=False)
class InfidelityQuestion:
    """The lesion that `probe` asks about first, and the `region` of the scan's grid that is changed."""

    scan: Scan
    probe: Probe
    region: MaskArray

    @cached_property
    def box(self) -> Box:
        """What holds the region."""
        return Box.around(np.argwhere(self.region))

    def infidelity(
        self, found: Attribution, *, derivative: bool, count: int, rng: np.random.Generator
    ) -> dict[str, float | str]:
        """`infidelity`, `infidelity_unscaled` and what the map was asked about (`answers_for`).

        With p foreseen and h happened over `count` changes: unscaled sum (p - h)^2 / sum h^2; scaled the same with the best
        factor s >= 0 on p, 1 - max(0, p.h)^2 / (p.p h.h). Derivatives (`derivative`): p = <I, M> for blobs of noise I.
        Contributions: the random half of what they were multiplied with is taken away instead of the other half, p being
        the difference of their sums (players of a game stay whole). NaN for maps that are neither.
        """
        if found.removal is None and not derivative:
            return {"infidelity": np.nan, "infidelity_unscaled": np.nan, "answers_for": ""}
        kind, pairs = "small changes", list(self._small(found, count, rng)) if found.removal is None else []
        if found.removal is not None:
            kind, pairs = "removal", list(self._halves(found, found.removal, count, rng))
        if not pairs:
            return {"infidelity": np.nan, "infidelity_unscaled": np.nan, "answers_for": kind}
        foreseen, plus, minus = zip(*pairs, strict=True)
        read = [one[0].target_mean for one in self.probe.read([*plus, *minus])]
        happened = np.array(read[: len(plus)]) - np.array(read[len(plus) :])
        return {**_compared(np.array(foreseen), happened), "answers_for": kind}

    def _small(
        self, found: Attribution, count: int, rng: np.random.Generator
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        """What the map foresees, and the inputs whose difference it foresees: the scan as it is, minus a changed one."""
        placement, region = self.scan.placement, self.region[self.box.slices]
        on_box = _laid(found.data, found.box, self.box)
        scale = placement.scale.cpu().double().numpy().reshape(-1, 1, 1, 1)
        follows = (
            None if placement.scan_passes is None else placement.scan_passes[(slice(None), *self.box.slices)].numpy()
        )
        for _ in range(count):
            blobs = self._blobs(len(on_box), region.shape, rng)
            # brighter here and darker there: a map that only knows its sum foresees nothing
            blobs = (blobs - blobs[:, region].mean(axis=1)[:, None, None, None]) * region
            change = CHANGE_SD * blobs / (blobs[:, region].std() or 1.0)
            change = change if follows is None else change * follows
            yield float((change * on_box).sum()), self.probe.base, self._without(change * scale, self.box)

    def _halves(
        self, found: Attribution, removal: Removal, count: int, rng: np.random.Generator
    ) -> Iterator[tuple[float, Tensor, Tensor]]:
        """The same for one half of what can be removed instead of the other."""
        box = removal.box if removal.players is not None else removal.box.intersection(self.box)
        if box.is_empty:
            return
        difference = _laid(removal.difference, removal.box, box)
        worth = _laid(found.data, found.box, box)
        there = difference != 0
        if removal.players is None:
            there &= self.region[box.slices]
        for _ in range(count):
            if removal.players is None:
                field = self._blobs(len(difference), box.shape, rng)
                middle = [np.median(f[t]) if t.any() else 0.0 for f, t in zip(field, there, strict=True)]
                first = there & (field > np.reshape(middle, (-1, 1, 1, 1)))
            else:
                names = rng.permutation(np.unique(removal.players[there]))
                first = there & np.isin(removal.players, names[: (len(names) + 1) // 2])
            second = there & ~first
            foreseen = float(worth[first].sum() - worth[second].sum())
            yield foreseen, self._without(difference * second, box), self._without(difference * first, box)

    def _blobs(self, channels: int, shape: tuple[int, ...], rng: np.random.Generator) -> Float[np.ndarray, "c i j k"]:
        sigma = (0.0, *(BLOB_MM / size for size in self.scan.sizes_mm))
        return ndimage.gaussian_filter(rng.standard_normal((channels, *shape)), sigma)

    def _without(self, change: Float[np.ndarray, "c i j k"], box: Box) -> Tensor:
        """The probe's input after a change of the scan (network's units, on a box of it) is taken away."""
        values = torch.from_numpy(np.ascontiguousarray(change)).to(self.probe.base)
        moved, reached = self.scan.placement.pushed(values, box)
        both = reached.intersection(self.probe.box)
        out = self.probe.base.clone()
        if not both.is_empty:
            own = moved[(slice(None), *both.relative_to(reached).slices)]
            out[(slice(None), *both.relative_to(self.probe.box).slices)] -= own
        return out


def _compared(foreseen: np.ndarray, happened: np.ndarray) -> dict[str, float | str]:
    size = float(happened @ happened)
    if not size > 0:
        return {"infidelity": np.nan, "infidelity_unscaled": np.nan}
    agreed, own = max(0.0, float(foreseen @ happened)), float(foreseen @ foreseen)
    scaled = 1.0 - agreed**2 / (own * size) if own > 0 else 1.0
    return {"infidelity": scaled, "infidelity_unscaled": float(((foreseen - happened) ** 2).sum()) / size}


def _laid(values: np.ndarray, box: Box, onto: Box) -> Float[np.ndarray, "c i j k"]:
    """Values on a box of the scan, laid on another; 0 where they do not reach."""
    out = np.zeros((len(values), *onto.shape))
    both = box.intersection(onto)
    if not both.is_empty:
        out[(slice(None), *both.relative_to(onto).slices)] = values[(slice(None), *both.relative_to(box).slices)]
    return out
