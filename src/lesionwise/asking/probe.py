"""Some regions of a scan, and what the network says about them for any changed input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor, nn

from lesionwise.asking.rerun import Rerun, changed_box
from lesionwise.attribution.engine.site import Site, VoxelSet, centred, locate
from lesionwise.attribution.target import AbstractTarget, target_named
from lesionwise.geometry.box import Box, triple
from lesionwise.inpainting import inpaint, local_mean
from lesionwise.kernels import QuickConvolutions
from lesionwise.norms import HeldNetwork, Statistics, normalises_by_itself
from lesionwise.segmenter import AbstractSegmenter, Placement, full_resolution
from lesionwise.types import MaskArray
from lesionwise.windows import WindowGrid, probability

_LOCAL_MM = 8.0
_TEXTURE_MM = 0.6
WORTH_KEEPING = 6
"""From as many changed inputs on, every layer's output for the reference is kept; fewer are run whole, to the last bit alike."""
KEPT_BYTES = 3 * 2**30
"""What may be kept of layers from one question to the next (see `Probe.keeping`)."""
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


class Kept:
    """What the layers gave for the unchanged scan, by window, up to `KEPT_BYTES` in all."""

    def __init__(self) -> None:
        self._reruns: dict[int, Rerun] = {}

    def of(self, window: int, make_fn: Callable[[], Rerun]) -> Rerun:
        """The rerun of a window; made anew where it was not kept."""
        known = self._reruns.get(window)
        if known is not None:
            return known
        made = make_fn()
        if made.nbytes + sum(one.nbytes for one in self._reruns.values()) <= KEPT_BYTES:
            self._reruns[window] = made
        return made


@dataclass(frozen=True, eq=False)
class Probe:
    """Some regions of a scan, and the part of the network's input that their windows see.

    `base` (channels, *box) is the unchanged input; changed inputs have its shape. Windows whose content did not change
    are not computed again.
    """

    model: AbstractSegmenter
    placement: Placement
    grid: WindowGrid
    sites: tuple[Site, ...]
    healthy_on_scan: MaskArray
    target: AbstractTarget
    threshold: float
    device: str = "cpu"
    network: nn.Module | None = None
    kept: "Kept | None" = None

    @classmethod
    def of(
        cls,
        model: AbstractSegmenter,
        placement: Placement,
        regions: Sequence[VoxelSet],
        *,
        healthy: MaskArray,
        target: str | AbstractTarget = "log_odds",
        threshold: float | None = None,
        device: str = "cpu",
        grid: WindowGrid | None = None,
        one_window: bool = False,
    ) -> "Probe":
        """Asks about regions (voxels (n, 3) of the scan), through the windows that predict them.

        `healthy` (scan's grid) is the tissue that may take a lesion's place, `threshold` the probability above which a
        voxel is lesion (default: the model's). `one_window` looks at each region through a single window around it
        instead: as many times cheaper as windows meet there, and an approximation. Raises InputError for a region
        without voxels or outside the scan.
        """
        if grid is None:
            grid = WindowGrid.of(model.spec, triple(placement.input.shape[-3:]))
        sites = locate(placement, grid, regions)
        if one_window:
            grid, sites = centred(placement, grid, sites)
        return cls(
            model,
            placement,
            grid,
            tuple(sites),
            healthy,
            target_named(target),
            model.spec.threshold if threshold is None else threshold,
            device,
        )

    def asking(self, network: nn.Module) -> "Probe":
        """The same questions to another network with the same inputs and outputs."""
        return replace(self, network=network, kept=None)  # what was kept is the other network's

    def keeping(self) -> "Probe":
        """The same questions, with the layers of the unchanged scan kept from one `read` to the next, where memory allows.

        For many questions in turn, each depending on the last answer.
        """
        return replace(self, kept=Kept())

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
        return self.placement.input[0][(slice(None), *self.box.slices)]

    @cached_property
    def scale(self) -> Float[Tensor, "channels 1 1 1"]:
        """One in-head standard deviation of each channel, in the units fed to the network."""
        return self.placement.scale.reshape(-1, 1, 1, 1).to(self.base)

    @cached_property
    def head(self) -> MaskArray:
        """Voxels of the box that are in the head."""
        return self.placement.head[self.box.slices].numpy().astype(bool)

    def field(self, on_scan: np.ndarray, *, outside: float = 0.0) -> np.ndarray:
        """A field on the scan's grid brought to the box; `outside` where the scan does not reach.

        What is infinite on the scan counts as very large, since interpolation knows no infinity.
        """
        part, source = self.placement.to_network.restrict(self.box)
        values = torch.from_numpy(np.minimum(on_scan[source.slices], _VERY_LARGE).astype(np.float64))
        moved = part.forward(values)
        if outside == 0.0:
            return moved.numpy()
        reach = part.forward(torch.ones_like(values))
        return torch.where(reach > 0.5, moved, torch.full_like(moved, outside)).numpy()

    def mask(self, on_scan: MaskArray) -> Bool[np.ndarray, "i2 j2 k2"]:
        """A mask on the scan's grid brought to the box."""
        return self.field(on_scan.astype(np.float64)) > 0.5

    def lesion(self, number: int = 0) -> MaskArray:
        """One of the lesions as a mask of the box; never empty."""
        omega = np.zeros(self.placement.to_scan.target_shape)
        omega[tuple(self.sites[number].voxels.T)] = 1.0
        share = self.field(omega)
        return share >= min(0.5, float(share.max())) if share.max() > 0 else share > 0.5

    @cached_property
    def healthy(self) -> MaskArray:
        """Healthy white matter in the box."""
        return self.mask(self.healthy_on_scan)

    def inpainted(self, mask: MaskArray, *, rng: np.random.Generator | None, grow_vox: int = 1) -> Tensor:
        """The input with healthy tissue in place of `mask`."""
        image = self.base.cpu().numpy().astype(np.float32)
        sizes_mm = self.placement.sizes_mm
        filled = inpaint(image, mask, voxel_sizes_mm=sizes_mm, healthy=self.healthy, rng=rng, grow_vox=grow_vox)
        return torch.from_numpy(filled).to(self.base)

    def tissue_everywhere(self, *, rng: np.random.Generator) -> Tensor:
        """Healthy white matter with its texture all over the head: what a voxel is replaced by when it is taken away."""
        image = self.base.cpu().numpy().astype(np.float64)
        mean = local_mean(image, self.healthy, sigma_vox=[_LOCAL_MM / size for size in self.placement.sizes_mm])
        residual = np.where(self.healthy, image - mean, 0.0)
        spread = residual[:, self.healthy].std(axis=1) if self.healthy.any() else np.zeros(len(image))
        sigma = (0.0, *(_TEXTURE_MM / size for size in self.placement.sizes_mm))
        noise = ndimage.gaussian_filter(rng.standard_normal(image.shape), sigma)
        filled = mean + noise / noise.std() * spread[:, None, None, None]
        return torch.from_numpy(np.where(self.head, filled, 0.0)).to(self.base)

    def read(
        self,
        inputs: Sequence[Tensor],
        *,
        freeze_norm: bool = False,
        like: Tensor | None = None,
        boxes: Sequence[Box | None] | None = None,
    ) -> list[tuple[Reading, ...]]:
        """What the network says about each lesion, for each input.

        Layers are computed where an input differs from `like` (the unchanged scan; one that most inputs resemble makes
        it faster, and changes nothing). `freeze_norm` keeps the instance-normalisation statistics of the unchanged scan,
        window by window. `boxes` says where an input differs from the unchanged scan at most; None: found by comparison.
        """
        found = self.logits(inputs, freeze_norm=freeze_norm, like=like, boxes=boxes)
        return [tuple(self._reading(*pair) for pair in zip(row, self.sites, strict=True)) for row in found]

    def logits(
        self,
        inputs: Sequence[Tensor],
        *,
        freeze_norm: bool = False,
        like: Tensor | None = None,
        boxes: Sequence[Box | None] | None = None,
    ) -> list[tuple[Float[Tensor, "outputs _"], ...]]:
        """Fused logits (float64) at the voxels of each region, in the order of its site's voxels, for each input."""
        count = self.model.spec.classes * self.model.spec.members
        sums = [
            [torch.zeros((count, *site.readout.source.shape), dtype=torch.float64) for site in self.sites]
            for _ in inputs
        ]
        told = [None] * len(inputs) if boxes is None else boxes
        changed = [changed_box(x, self.base) if box is None else box for x, box in zip(inputs, told, strict=True)]
        unlike = changed if like is None else [changed_box(x, like) for x in inputs]
        with torch.no_grad():
            for window in self.windows:
                there = [self._in_window(box, window) for box in changed]
                inside = there if like is None else [self._in_window(box, window) for box in unlike]
                found = self._logits(inputs, like, window, there, inside, freeze_norm=freeze_norm)
                for fused, logits in zip(sums, found, strict=True):
                    for own, site in zip(fused, self.sites, strict=True):
                        if window in site.windows:
                            self.grid.fuse(own, site.readout.source, window, logits)
        return [tuple(site.readout.read(own) for own, site in zip(fused, self.sites, strict=True)) for fused in sums]

    @property
    def _network(self) -> nn.Module:
        return self.model.network if self.network is None else self.network

    def _logits(
        self,
        inputs: Sequence[Tensor],
        like: Tensor | None,
        window: int,
        changed: Sequence[Box],
        unlike: Sequence[Box],
        *,
        freeze_norm: bool,
    ) -> list[Tensor]:
        """Logits of one window for every input, exact where a lesion reads them.

        `changed` and `unlike` say where in the window an input differs from the unchanged scan, and from `like`.
        """
        whole, base = self._network, self._crop(self.base, window)
        network = HeldNetwork(whole, Statistics()) if freeze_norm else whole
        is_local = freeze_norm or not normalises_by_itself(whole)
        # The first pass with held statistics takes them: it must see the unchanged scan.
        unchanged = self._run(network, base) if freeze_norm else None
        moved = [n for n, box in enumerate(changed) if not box.is_empty]
        rerun: Rerun | None = None
        if self.kept is not None and like is None and is_local and not freeze_norm:
            rerun = self.kept.of(window, lambda: Rerun(network, base.to(self.device), wanted=self._read_in(window)))
            unchanged = rerun.before.cpu()
        elif len(moved) >= WORTH_KEEPING and is_local:
            reference = (base if like is None else self._crop(like, window)).to(self.device)
            rerun = Rerun(network, reference, wanted=self._read_in(window), learn=len(moved) >= WORTH_LEARNING)
        if unchanged is None and len(moved) < len(inputs):
            unchanged = self._run(network, base)
        found = [base if unchanged is None else unchanged] * len(inputs)
        crops = [self._crop(inputs[n], window).to(self.device) for n in moved]
        if rerun is not None:
            again = rerun.logits(crops, boxes=[unlike[n] for n in moved])
        else:
            again = [self._run(network, crop) for crop in crops]
        for n, logits in zip(moved, again, strict=True):
            found[n] = logits.cpu()
        return found

    def _in_window(self, box: Box, window: int) -> Box:
        """A box of the probe's input as a box of one window, in the window's voxels."""
        lies = self.grid.boxes[window].shifted(_negative(self.grid.offset))
        return box.shifted(self.box.start).intersection(lies).relative_to(lies)

    def _read_in(self, window: int) -> Box:
        """What the lesions read of a window, in its own voxels."""
        lies = self.grid.boxes[window].shifted(_negative(self.grid.offset))
        parts = [lies.intersection(site.readout.source) for site in self.sites]
        return reduce(Box.union, [part for part in parts if not part.is_empty]).relative_to(lies)

    @cached_property
    def unchanged(self) -> tuple[Reading, ...]:
        """What the network says about the scan as it is."""
        return self.read([self.base])[0]

    def _run(self, network: nn.Module, crop: Tensor) -> Tensor:
        with QuickConvolutions():
            return full_resolution(network(crop[None].to(self.device)), crop.shape[1:])[0].cpu()

    def _crop(self, x: Tensor, window: int) -> Tensor:
        """One window of an input on the box; zeros where the volume ends."""
        lies = self.grid.boxes[window].shifted(_negative(self.grid.offset))
        inside = lies.intersection(self.box)
        if inside == lies:
            return x[(slice(None), *inside.relative_to(self.box).slices)]
        crop = x.new_zeros((x.shape[0], *lies.shape))
        crop[(slice(None), *inside.relative_to(lies).slices)] = x[(slice(None), *inside.relative_to(self.box).slices)]
        return crop

    def _reading(self, logits: Tensor, site: Site) -> Reading:
        spec, count = self.model.spec, len(site.voxels)
        if not site.windows:  # the network does not look there, which its own software takes to be background
            return Reading(np.zeros(count), np.full(count, np.nan), self.threshold)
        values = self.target.value(logits, spec)
        return Reading(probability(logits, spec).numpy(), values.numpy(), self.threshold)


def _negative(offset: tuple[int, int, int]) -> tuple[int, int, int]:
    return -offset[0], -offset[1], -offset[2]
