"""One lesion before the network: what is decided about it, and what could be changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lesionwise.asking.probe import Probe, Reading
from lesionwise.asking.rerun import changed_box
from lesionwise.asking.scan import Scan
from lesionwise.geometry.box import Box
from lesionwise.instances.instance import Instance
from lesionwise.why.rule import Rule

AT_ONCE = 12
"""Changed inputs that are held at once."""
NEAR_MM = 15.0
"""As far as what surrounds a lesion is told apart by tissue."""


@dataclass(frozen=True)
class Answer:
    """What the network says of one changed scan: whether the lesion is found, and its mean log-odds (the target)."""

    found: bool
    target: float


@dataclass(eq=False)
class Question:
    """A lesion, the rule that decides about it, and the windows that must be asked again.

    `passes` counts the changed scans that were asked about; each costs one pass of every window in `probe.windows`.
    """

    scan: Scan
    instance: Instance
    rule: Rule
    region: Box
    probe: Probe
    passes: int = field(default=0)

    @classmethod
    def about(cls, scan: Scan, instance: Instance) -> "Question":
        """The question whether this lesion is found."""
        rule = Rule.of(scan)
        region = rule.region(instance, scan.case.image.shape)
        voxels = np.argwhere(np.ones(region.shape, dtype=bool)) + np.asarray(region.start)
        probe = Probe.of(
            scan.model,
            scan.placement,
            [voxels, instance.voxels],
            healthy=scan.healthy,
            target=scan.explained.settings.target,
            threshold=scan.threshold,
            device=scan.device,
            grid=scan.grid,
        )
        return cls(scan, instance, rule, region, probe.keeping())

    def ask(self, inputs: Sequence[Tensor], *, boxes: Sequence[Box] | None = None) -> list[Answer]:
        """The answers for some changed inputs (channels, i, j, k) on the probe's box; only what changed is computed.

        `boxes` says where each was changed at most, where that is known.
        """
        answers: list[Answer] = []
        for start in range(0, len(inputs), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            read = self.probe.read(inputs[some], boxes=None if boxes is None else boxes[some])
            answers += [self._answer(*row) for row in read]
        self.passes += len(inputs)
        return answers

    def ask_plainly(self, x: Tensor) -> Answer:
        """The answer by ordinary passes of whole windows, nothing left out: what a counterfactual is checked with."""
        self.passes += 1
        return self._answer(*replace(self.probe, kept=None).read([x])[0])

    def _answer(self, around: Reading, lesion: Reading) -> Answer:
        probability = around.probability.reshape(self.region.shape)
        return Answer(self.rule.finds(np.where(self._seen, probability, 0.0), self.omega), lesion.target_mean)

    @cached_property
    def omega(self) -> np.ndarray:
        """The lesion on its region."""
        return self.instance.mask(self.scan.case.image.shape)[self.region.slices]

    @cached_property
    def _seen(self) -> np.ndarray:
        """Where the network looks; elsewhere its own software takes the scan to be background."""
        part, source = self.scan.placement.to_scan.restrict(self.region)
        return (part.forward(torch.ones(source.shape)) > 0.5).numpy()

    @property
    def base(self) -> Tensor:
        """The unchanged input on the probe's box."""
        return self.probe.base

    @cached_property
    def unchanged(self) -> Answer:
        """The answer for the scan as it is."""
        return self.ask([self.base])[0]

    @cached_property
    def lesion(self) -> Tensor:
        """The lesion on the probe's box."""
        return torch.from_numpy(self.probe.lesion(1))

    @cached_property
    def healthy(self) -> Tensor:
        """The input with healthy tissue in place of the lesion and of one voxel around it."""
        rng = self.scan.rng(self.instance.label, 20)
        return self.probe.inpainted(self.lesion.numpy(), rng=rng)

    @cached_property
    def filled_box(self) -> Box:
        """The part of the probe's box in which `healthy` differs from the scan."""
        return changed_box(self.healthy, self.base)

    @cached_property
    def contrast(self) -> Tensor:
        """Mean difference between the lesion and the tissue in its place, per channel in the network's units."""
        return (self.base - self.healthy)[:, self.lesion].mean(dim=1)

    @cached_property
    def contrast_sd(self) -> dict[str, float]:
        """The same by channel, in standard deviations of the channel in the head."""
        values = self.contrast / self.probe.scale.flatten()
        return dict(zip(self.scan.channels, values.tolist(), strict=True))

    @cached_property
    def distance_mm(self) -> Tensor:
        """Signed distance to the lesion's border on the probe's box; very large beyond 2 `NEAR_MM`."""
        scan = self.scan
        box = scan.around(self.instance, 2 * NEAR_MM)
        whole = np.full(scan.case.image.shape, np.inf)
        whole[box.slices] = scan.distance_mm(self.instance, box=box)
        return torch.from_numpy(self.probe.field(whole, outside=np.inf))

    @cached_property
    def others(self) -> Tensor:
        """Voxels of other lesions on the probe's box."""
        return torch.from_numpy(self.probe.mask(self.scan.others(self.instance))) & ~self.lesion
