"""One scan, its lesions and the network, ready to be asked what would happen if the image were different."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor, nn

from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.session import attribute
from lesionwise.attribution.engine.site import Site, locate
from lesionwise.attribution.rerun import Rerun
from lesionwise.attribution.result import Attribution
from lesionwise.attribution.target import target_named
from lesionwise.experiments.norms import Statistics, has_instance_norm, norm_statistics
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import signed_distance_mm
from lesionwise.geometry.volume import Case
from lesionwise.inpainting import inpaint, local_mean
from lesionwise.instances.components import label_components
from lesionwise.instances.instance import Instance
from lesionwise.instances.tissue import Tissues, tissues
from lesionwise.saliency import SaliencyMap
from lesionwise.segmenter import AbstractSegmenter, Placement, full_resolution
from lesionwise.types import MaskArray
from lesionwise.units import Explained
from lesionwise.windows import WindowGrid, probability

WORTH_KEEPING = 6
"""From as many changed inputs on, every layer's output for the reference is kept; fewer are run whole, to the last bit alike."""
_VERY_LARGE = 1e9
WORTH_LEARNING = 10
"""From as many on, it is found out which part of every layer the lesions read."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What the network says about one lesion's voxels."""

    probability: np.ndarray
    target: np.ndarray
    threshold: float

    @property
    def score(self) -> float:
        """Mean lesion probability over Omega."""
        return float(self.probability.mean())

    @property
    def detected(self) -> bool:
        """True if any voxel of Omega passes the threshold."""
        return bool(self.probability.max() > self.threshold)

    @property
    def target_mean(self) -> float:
        """Mean of the explained target over Omega."""
        return float(self.target.mean())


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
    def tissues(self) -> Tissues:
        """White matter, grey matter, fluid."""
        return tissues(self.case, seed=self.explained.settings.seed)

    @cached_property
    def healthy(self) -> MaskArray:
        """White matter at least one voxel away from any lesion."""
        return self.tissues.white & ~ndimage.binary_dilation(self.lesions)

    def others(self, instance: Instance) -> MaskArray:
        """Voxels of other lesions: other instances (controls are none), and lesion voxels not connected to this one."""
        ours = np.unique(self._connected[instance.index])
        apart = self.lesions & ~np.isin(self._connected, ours[ours > 0])
        labels = self.explained.labels
        controls = [one.label for one in self.instances if one.outcome == "TN"]
        known = (labels > 0) & (labels != instance.label) & ~np.isin(labels, controls)
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
        """Maps by any method; `network` and `placement` take the place of the scan's own where given."""
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
        )

    def probe(self, *instances: Instance) -> "Probe":
        """Asks about these lesions again and again; only windows that meet one of them are computed."""
        sites = locate(self.placement, self.grid, [one.voxels for one in instances])
        return Probe(self, tuple(instances), tuple(sites))


@dataclass(frozen=True, eq=False)
class Probe:
    """Some lesions of a scan, and the part of the network's input that their windows see.

    `base` (channels, *box) is the unchanged input; changed inputs have its shape. Windows whose content did not change
    are not computed again.
    """

    scan: Scan
    instances: tuple[Instance, ...]
    sites: tuple[Site, ...]

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """Windows that meet a lesion."""
        return tuple(sorted({window for site in self.sites for window in site.windows}))

    @cached_property
    def box(self) -> Box:
        """What the windows cover, on the network's grid."""
        boxes = [site.box for site in self.sites if site.windows]
        box = boxes[0] if boxes else Box((0, 0, 0), (1, 1, 1))
        for other in boxes[1:]:
            box = box.union(other)
        return box

    @cached_property
    def base(self) -> Float[Tensor, "channels i j k"]:
        """The unchanged input in the box."""
        return self.scan.placement.input[0][(slice(None), *self.box.slices)]

    @cached_property
    def scale(self) -> Float[Tensor, "channels 1 1 1"]:
        """One in-head standard deviation of each channel, in the units fed to the network."""
        return self.scan.placement.scale.reshape(-1, 1, 1, 1).to(self.base)

    @cached_property
    def head(self) -> MaskArray:
        """Voxels of the box that are in the head."""
        return self.scan.placement.head[self.box.slices].numpy().astype(bool)

    def field(self, on_scan: np.ndarray, *, outside: float = 0.0) -> np.ndarray:
        """A field on the scan's grid brought to the box; `outside` where the scan does not reach.

        What is infinite on the scan counts as very large, since interpolation knows no infinity.
        """
        part, source = self.scan.placement.to_network.restrict(self.box)
        values = torch.from_numpy(np.minimum(on_scan[source.slices], _VERY_LARGE).astype(np.float64))
        moved = part.forward(values)
        if outside == 0.0:
            return moved.numpy()
        reach = part.forward(torch.ones_like(values))
        return torch.where(reach > 0.5, moved, torch.full_like(moved, outside)).numpy()

    def mask(self, on_scan: MaskArray) -> MaskArray:
        """A mask on the scan's grid brought to the box."""
        return self.field(on_scan.astype(np.float64)) > 0.5

    def lesion(self, number: int = 0) -> MaskArray:
        """One of the lesions as a mask of the box; never empty."""
        share = self.field(self.instances[number].mask(self.scan.case.image.shape).astype(np.float64))
        return share >= min(0.5, float(share.max())) if share.max() > 0 else share > 0.5

    @cached_property
    def healthy(self) -> MaskArray:
        """Healthy white matter in the box."""
        return self.mask(self.scan.healthy)

    def inpainted(self, mask: MaskArray, *, rng: np.random.Generator | None, grow_vox: int = 1) -> Tensor:
        """The input with healthy tissue in place of `mask`."""
        image = self.base.cpu().numpy().astype(np.float32)
        filled = inpaint(image, mask, healthy=self.healthy, rng=rng, grow_vox=grow_vox)
        return torch.from_numpy(filled).to(self.base)

    def tissue_everywhere(self, *, rng: np.random.Generator) -> Tensor:
        """Healthy white matter with its texture all over the head: what a voxel is replaced by when it is taken away."""
        image = self.base.cpu().numpy().astype(np.float64)
        mean = local_mean(image, self.healthy, sigma_vox=(8.0, 8.0, 8.0))
        residual = np.where(self.healthy, image - mean, 0.0)
        spread = residual[:, self.healthy].std(axis=1) if self.healthy.any() else np.zeros(len(image))
        noise = ndimage.gaussian_filter(rng.standard_normal(image.shape), (0, 0.6, 0.6, 0.6))
        filled = mean + noise / noise.std() * spread[:, None, None, None]
        return torch.from_numpy(np.where(self.head, filled, 0.0)).to(self.base)

    def read(
        self, inputs: Sequence[Tensor], *, freeze_norm: bool = False, like: Tensor | None = None
    ) -> list[tuple[Reading, ...]]:
        """What the network says about each lesion, for each input.

        Layers are computed where an input differs from `like` (the unchanged scan; one that most inputs resemble makes
        it faster, and changes nothing). `freeze_norm` keeps the instance-normalisation statistics of the unchanged scan,
        window by window.
        """
        scan, spec = self.scan, self.scan.model.spec
        sums: list[list[Tensor | None]] = [[None] * len(self.sites) for _ in inputs]
        with torch.no_grad(), norm_statistics(scan.model.network, frozen=freeze_norm) as statistics:
            for window in self.windows:
                for total, logits in zip(
                    sums, self._logits(inputs, like, window, statistics, freeze_norm), strict=True
                ):
                    self._add(total, logits, window)
        return [
            tuple(self._reading(total, site, spec) for total, site in zip(row, self.sites, strict=True)) for row in sums
        ]

    def _logits(
        self, inputs: Sequence[Tensor], like: Tensor | None, window: int, statistics: Statistics, freeze_norm: bool
    ) -> Iterator[Tensor]:
        """Logits of one window for every input, exact where a lesion reads them."""
        network, base = self.scan.model.network, self._crop(self.base, window)
        crops = [self._crop(x, window) for x in inputs]
        same = [torch.equal(crop, base) for crop in crops]
        statistics.record()
        unchanged = self._run(network, base) if any(same) or freeze_norm else None
        statistics.replay()
        rerun: Rerun | None = None
        changed = len(same) - sum(same)
        if changed >= WORTH_KEEPING and (freeze_norm or not has_instance_norm(network)):
            reference = (base if like is None else self._crop(like, window)).to(self.scan.device)
            rerun = Rerun(network, reference, wanted=self._read_in(window), learn=changed >= WORTH_LEARNING)
        for crop, is_same in zip(crops, same, strict=True):
            if is_same and unchanged is not None:
                yield unchanged
            elif rerun is None:
                yield self._run(network, crop)
            else:
                yield rerun.logits(crop.to(self.scan.device)).cpu()

    def _read_in(self, window: int) -> Box:
        """What the lesions read of a window, in its own voxels."""
        lies = self.scan.grid.boxes[window].shifted(_negative(self.scan.grid.offset))
        parts = [lies.intersection(site.readout.source) for site in self.sites]
        return reduce(Box.union, [part for part in parts if not part.is_empty]).relative_to(lies)

    @cached_property
    def unchanged(self) -> tuple[Reading, ...]:
        """What the network says about the scan as it is."""
        return self.read([self.base])[0]

    def _run(self, network: nn.Module, crop: Tensor) -> Tensor:
        return full_resolution(network(crop[None].to(self.scan.device)), crop.shape[1:])[0].cpu()

    def _crop(self, x: Tensor, window: int) -> Tensor:
        """One window of an input on the box; zeros where the volume ends."""
        lies = self.scan.grid.boxes[window].shifted(_negative(self.scan.grid.offset))
        inside = lies.intersection(self.box)
        if inside == lies:
            return x[(slice(None), *inside.relative_to(self.box).slices)]
        crop = x.new_zeros((x.shape[0], *lies.shape))
        crop[(slice(None), *inside.relative_to(lies).slices)] = x[(slice(None), *inside.relative_to(self.box).slices)]
        return crop

    def _add(self, sums: list[Tensor | None], logits: Tensor | None, window: int) -> None:
        if logits is None:
            return
        lies = self.scan.grid.boxes[window].shifted(_negative(self.scan.grid.offset))
        weight = self.scan.grid.weight(window)
        for n, site in enumerate(self.sites):
            source = site.readout.source
            both = lies.intersection(source)
            if both.is_empty:
                continue
            total = sums[n]
            if total is None:
                total = torch.zeros((logits.shape[0], *source.shape), dtype=torch.float64)
            part = both.relative_to(lies).slices
            total[(slice(None), *both.relative_to(source).slices)] += (
                logits[(slice(None), *part)] * weight[part]
            ).double()
            sums[n] = total

    def _reading(self, total: Tensor | None, site: Site, spec: Any) -> Reading:
        count = len(site.voxels)
        if total is None:
            return Reading(np.zeros(count), np.full(count, np.nan), self.scan.threshold)
        logits = site.readout.read(total)
        target = target_named(self.scan.explained.settings.target).value(logits, spec)
        return Reading(probability(logits, spec).numpy(), target.numpy(), self.scan.threshold)


def _negative(offset: tuple[int, int, int]) -> tuple[int, int, int]:
    return -offset[0], -offset[1], -offset[2]
