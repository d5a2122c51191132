"""Asking the network again about one lesion: a window centred on it, and the lesion's log-odds for any changed input.

Scores are taken in one window on the network's own grid; the unchanged input is scored in the same window, so that a
difference is due to the change alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lesionwise.attribution.engine.noise import spread
from lesionwise.geometry.box import Box
from lesionwise.instances.tissue import white_matter
from lesionwise.segmenter import AbstractSegmenter, Placement, Spec
from lesionwise.triage.scan import LesionView, TriageScan
from lesionwise.types import ImageArray, MaskArray

_SMALL = 1e-7


@dataclass(frozen=True, eq=False)
class Cut:
    """A lesion's window on the network's grid; it may stick out of the grid, where everything is 0 or False.

    `x` (channels, i, j, k) is the network's input; `map` the saliency map there, None if the lesion was not explained.
    """

    box: Box
    x: ImageArray
    inside: MaskArray
    healthy: MaskArray
    head: MaskArray
    map: ImageArray | None


@dataclass(frozen=True, eq=False)
class Probe:
    """A scan laid before its network once, to be asked about many lesions."""

    scan: TriageScan
    spec: Spec
    network: nn.Module
    placement: Placement
    healthy: Bool[np.ndarray, "i j k"]
    _cuts: dict[int, Cut | None] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, scan: TriageScan, model: AbstractSegmenter) -> "Probe | None":
        """None where the scan's images are not at hand."""
        if scan.case is None:
            return None
        model = model.for_case(scan.case)
        placement = model.place(scan.case)
        healthy = _on_network(placement, white_matter(scan.case).mask) & ~_on_network(placement, scan.mask)
        return cls(scan, model.spec, model.network, placement, healthy)

    @cached_property
    def noise_sd(self) -> Float[np.ndarray, " channels"]:
        """SD of SmoothGrad's default noise (5 % of a channel's spread in the head), in network units."""
        return spread(self.placement.input[0], self.placement.head, noise=0.05)

    def cut(self, label: int) -> Cut | None:
        """A lesion's window, laid out once; None if nothing of the lesion is left on the network's grid."""
        if label not in self._cuts:
            self._cuts[label] = self._laid_out(self.scan.view(label))
        return self._cuts[label]

    def _laid_out(self, view: LesionView) -> Cut | None:
        omega = _on_network(self.placement, self._whole(view.inside, view.box))
        if not omega.any():
            return None
        box = _centred(omega, self.spec.window)
        laid = None
        if view.map is not None:
            whole = torch.from_numpy(self._whole(view.map.astype(np.float32), view.box))
            laid = _cut(self.placement.to_network.forward(whole).numpy(), box)
        masks = np.stack([omega, self.healthy, self.placement.head.numpy()])
        inside, healthy, head = _cut(masks, box)
        return Cut(box, _cut(self.placement.input[0].numpy(), box), inside, healthy, head, laid)

    def members(self, x: ImageArray, inside: MaskArray) -> Float[np.ndarray, "members voxels"]:
        """Log-odds of the lesion class at the voxels of `inside`, per member of an ensemble."""
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        with torch.no_grad():
            logits = self.network(torch.from_numpy(np.ascontiguousarray(x))[None].to(device))[0]
            found = torch.stack([log_odds(one, self.spec) for one in logits.split(self.spec.classes)])
        return found[:, torch.from_numpy(np.ascontiguousarray(inside)).to(device)].double().cpu().numpy()

    def voxels(self, x: ImageArray, inside: MaskArray) -> Float[np.ndarray, " voxels"]:
        """Log-odds at the voxels of `inside`; for ensembles, of the mean probability."""
        found = self.members(x, inside)
        if len(found) == 1:
            return found[0]
        p = np.clip((1.0 / (1.0 + np.exp(-found))).mean(axis=0), _SMALL, 1.0 - _SMALL)
        return np.log(p / (1.0 - p))

    def scores(self, inputs: Sequence[ImageArray], inside: MaskArray) -> Float[np.ndarray, " inputs"]:
        """Mean log-odds over the lesion for every input."""
        return np.array([self.voxels(x, inside).mean() for x in inputs])

    def _whole(self, values: np.ndarray, box: Box) -> np.ndarray:
        """An array (..., i, j, k) on a box of the scan, 0 elsewhere on the scan's grid."""
        out = np.zeros((*values.shape[:-3], *self.scan.labels.shape), dtype=values.dtype)
        out[(..., *box.slices)] = values
        return out


def log_odds(logits: Float[Tensor, "classes i j k"], spec: Spec) -> Float[Tensor, "i j k"]:
    """Log-odds of the lesion class: z_k - logsumexp of the others, or the channel itself under a sigmoid (METHOD 2)."""
    if spec.activation == "sigmoid":
        return logits[spec.lesion_class]
    rest = [k for k in range(logits.shape[0]) if k != spec.lesion_class]
    return logits[spec.lesion_class] - torch.logsumexp(logits[rest], dim=0)


def _on_network(placement: Placement, mask: np.ndarray) -> np.ndarray:
    """A mask of the scan on the network's grid."""
    return (placement.to_network.forward(torch.from_numpy(mask.astype(np.float32))) > 0.5).numpy()


def _centred(omega: np.ndarray, window: tuple[int, int, int]) -> Box:
    """The window around the middle of the lesion's box; it may stick out of the grid."""
    box = Box.around(np.argwhere(omega))
    middle = [(a + b) // 2 for a, b in zip(box.start, box.stop, strict=True)]
    start = [m - w // 2 for m, w in zip(middle, window, strict=True)]
    return Box((start[0], start[1], start[2]), (start[0] + window[0], start[1] + window[1], start[2] + window[2]))


def _cut(values: np.ndarray, box: Box) -> np.ndarray:
    """A box out of (channels, i, j, k), 0 where it sticks out, as padding at the scan's edge is."""
    out = np.zeros((len(values), *box.shape), dtype=values.dtype)
    shape = values.shape[1:]
    common = box.intersection(Box.whole((shape[0], shape[1], shape[2])))
    out[(slice(None), *common.relative_to(box).slices)] = values[(slice(None), *common.slices)]
    return out
