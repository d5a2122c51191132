"""One scan, its lesions and the network, ready to be asked what would happen if the image were different."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from lesionwise.asking.healed import Healed
from lesionwise.asking.probe import Probe
from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.session import attribute
from lesionwise.attribution.result import Attribution
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import signed_distance_mm
from lesionwise.geometry.volume import Case
from lesionwise.instances.components import label_components
from lesionwise.instances.instance import Instance
from lesionwise.instances.tissue import Tissues, tissues
from lesionwise.saliency import SaliencyMap
from lesionwise.segmenter import AbstractSegmenter, Placement
from lesionwise.types import MaskArray
from lesionwise.units import Explained
from lesionwise.windows import WindowGrid


@dataclass(frozen=True, eq=False)
class Scan:
    """A model and an explained case. Masks and fields are on the scan's grid, inputs on the network's.

    `wanted` are the numbers of the lesions asked for; None means those with a map, or all if none has one.
    """

    model: AbstractSegmenter
    explained: Explained
    device: str = "cpu"
    wanted: tuple[int, ...] | None = None

    @property
    def case(self) -> Case:
        """The scan's images."""
        return self.explained.case

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Lesions and control regions."""
        return self.explained.instances

    @property
    def maps(self) -> Mapping[int, SaliencyMap]:
        """Signed maps by lesion number."""
        return self.explained.maps

    @property
    def chosen(self) -> list[Instance]:
        """The lesions that the experiment is about."""
        if self.wanted is not None:
            return [one for one in self.instances if one.label in self.wanted]
        return [one for one in self.instances if one.label in self.maps] or list(self.instances)

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels in the network's order."""
        return self.model.spec.channels

    @property
    def threshold(self) -> float:
        """Probability above which a voxel is lesion."""
        chosen = self.explained.settings.threshold
        return self.model.spec.threshold if chosen is None else chosen

    @property
    def sizes_mm(self) -> tuple[float, float, float]:
        """Edge lengths of the scan's voxels."""
        return voxel_sizes_mm(self.case.image.affine)

    @cached_property
    def placement(self) -> Placement:
        """The case on the network's grid."""
        return self.model.place(self.case)

    @cached_property
    def grid(self) -> WindowGrid:
        """The windows."""
        i, j, k = self.placement.input.shape[-3:]
        return WindowGrid.of(self.model.spec, (int(i), int(j), int(k)))

    @cached_property
    def lesions(self) -> MaskArray:
        """Every predicted or reference lesion voxel, small components included."""
        mask = self.explained.mask.astype(bool)
        return mask if self.case.reference is None else mask | self.case.reference

    @cached_property
    def left_right_axis(self) -> int:
        """The axis of the network's grid that runs closest to left-right."""
        along = self.case.image.affine[0, :3]  # x in mm per voxel of the scan
        steps = [np.arange(n) * mm for n, mm in zip(self.case.image.shape, along, strict=True)]
        x_mm = torch.from_numpy(np.add.reduce(np.meshgrid(*steps, indexing="ij")))
        moved, head = self.placement.to_network.forward(x_mm), self.placement.head.to(torch.bool)
        slopes = [moved.diff(dim=axis)[head.narrow(axis, 1, head.shape[axis] - 1)].abs().median() for axis in range(3)]
        return int(np.argmax(slopes))

    @cached_property
    def tissues(self) -> Tissues:
        """White matter, grey matter, fluid."""
        return tissues(self.case, seed=self.explained.settings.seed)

    @cached_property
    def healthy(self) -> MaskArray:
        """White matter at least one voxel away from any lesion."""
        return self.tissues.white & ~ndimage.binary_dilation(self.lesions)

    @cached_property
    def healed(self) -> Healed:
        """The network's input without any lesion."""
        known = (self.explained.labels > 0) & ~np.isin(self.explained.labels, self._controls)
        lesions, healthy = (
            (self.placement.to_network.forward(torch.from_numpy(mask.astype(np.float64))) > 0.5).numpy()
            for mask in (self.lesions | known, self.healthy)
        )
        seed = self.explained.settings.seed
        return Healed.of(self.placement.input[0], lesions, healthy, sizes_mm=self.placement.sizes_mm, seed=seed)

    @property
    def _controls(self) -> list[int]:
        return [one.label for one in self.instances if one.outcome == "TN"]

    def others(self, instance: Instance) -> MaskArray:
        """Voxels of other lesions: other instances (controls are none), and lesion voxels not connected to this one."""
        ours = np.unique(self._connected[instance.index])
        apart = self.lesions & ~np.isin(self._connected, ours[ours > 0])
        labels = self.explained.labels
        known = (labels > 0) & (labels != instance.label) & ~np.isin(labels, self._controls)
        return (apart & (labels != instance.label)) | known

    @cached_property
    def _connected(self) -> np.ndarray:
        return label_components(self.lesions, connectivity=self.explained.settings.connectivity)

    def rng(self, *words: int) -> np.random.Generator:
        """A generator that depends on the seed and on what it is for, not on what was drawn before."""
        return np.random.default_rng([self.explained.settings.seed, *words])

    def distance_mm(
        self, instance: Instance, *, box: Box | None = None, reach_mm: int | float | None = None
    ) -> np.ndarray:
        """Signed Euclidean distance (i, j, k) of every voxel to the lesion's border in mm, negative inside.

        On a `box` that holds the lesion, else on the whole scan; infinite beyond `reach_mm`, where one is given.
        """
        box = Box.whole(self.case.image.shape) if box is None else box
        return signed_distance_mm(instance.mask(self.case.image.shape)[box.slices], self.sizes_mm, reach_mm=reach_mm)

    def around(self, instance: Instance, margin_mm: int | float) -> Box:
        """The box that holds the lesion and `margin_mm` on every side, cut at the scan's edge."""
        margin = int(np.ceil(margin_mm / min(self.sizes_mm)))
        return Box.around(instance.voxels, margin=margin, shape=self.case.image.shape)

    def attribute(
        self,
        instances: Sequence[Instance],
        method: AbstractMethod,
        *,
        network: nn.Module | None = None,
        placement: Placement | None = None,
        seed: int | None = None,
    ) -> list[Attribution]:
        """Maps by any method; `network` and `placement` take the place of the scan's own where given.

        Statistics and views are treated as for the scan's own maps, where the method offers that.
        """
        settings = self.explained.settings
        offered = settings.statistics in method.statistics
        return attribute(
            network or self.model.network,
            self.model.spec,
            placement or self.placement,
            [one.voxels for one in instances],
            method=method,
            target=self.explained.settings.target,
            seed=self.explained.settings.seed if seed is None else seed,
            device=self.device,
            healthy=self.healthy,
            statistics=settings.statistics if offered else "auto",
            views=settings.views,
        )

    def probe(self, *instances: Instance) -> Probe:
        """Asks about these lesions again and again; only windows that meet one of them are computed."""
        return Probe.of(
            self.model,
            self.placement,
            [one.voxels for one in instances],
            healthy=self.healthy,
            target=self.explained.settings.target,
            threshold=self.threshold,
            device=self.device,
            grid=self.grid,
        )
