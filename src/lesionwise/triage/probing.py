"""Asking the network again about one lesion at a time: what the features of context and disagreement are made of.

Scores are taken in one window around the lesion; the unchanged input is scored in the same window, so that a difference
is due to the change alone.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lesionwise.asking.probe import Probe
from lesionwise.attribution.engine.noise import spread
from lesionwise.instances.tissue import white_matter
from lesionwise.segmenter import AbstractSegmenter, Placement
from lesionwise.triage.scan import TriageScan


@dataclass(frozen=True, eq=False)
class Questions:
    """A scan laid before its network once, to be asked about many lesions."""

    scan: TriageScan
    model: AbstractSegmenter
    placement: Placement
    healthy: Bool[np.ndarray, "i j k"]
    _probes: dict[int, Probe | None] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, scan: TriageScan, model: AbstractSegmenter) -> "Questions | None":
        """None where the scan's images are not at hand."""
        if scan.case is None:
            return None
        return cls(scan, model, model.place(scan.case), white_matter(scan.case).mask & ~(scan.mask > 0))

    @cached_property
    def noise_sd(self) -> Float[np.ndarray, " channels"]:
        """SD of SmoothGrad's default noise (5 % of a channel's spread in the head), in network units."""
        return spread(self.placement.input[0], self.placement.head, noise=0.05)

    def about(self, label: int) -> Probe | None:
        """Asks about a lesion's log-odds; None if nothing of the lesion is left on the network's grid."""
        if label not in self._probes:
            home = next((p.device for p in self.model.network.parameters()), torch.device("cpu"))
            probe = Probe.of(
                self.model,
                self.placement,
                [self.scan.voxels(label)],
                healthy=self.healthy,
                target="log_odds",
                threshold=self.scan.threshold,
                device=str(home),
                one_window=True,
            )
            self._probes[label] = probe if probe.windows and probe.lesion().any() else None
        return self._probes[label]

    def map(self, label: int) -> Float[Tensor, "channels i j k"] | None:
        """The lesion's saliency map where its probe looks; None if the lesion was not explained."""
        view, probe = self.scan.view(label), self.about(label)
        if view.map is None or probe is None:
            return None
        whole = np.zeros((len(view.map), *self.scan.labels.shape))
        whole[(slice(None), *view.box.slices)] = view.map
        return torch.from_numpy(np.stack([probe.field(channel) for channel in whole]))
