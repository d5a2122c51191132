"""An instance's target as an ordinary module, so that any attribution of Captum (or anyone's) can be asked about it."""

import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site, VoxelSet, locate
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.result import Attribution, trimmed
from lesionwise.attribution.target import AbstractTarget, target_named
from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.network import frozen
from lesionwise.segmenter import Placement, Spec, full_resolution
from lesionwise.types import MaskArray
from lesionwise.windows import WindowGrid

_RELU_ONLY = ("GuidedBackprop", "Deconvolution", "GuidedGradCam")


class InstanceTarget(nn.Module):
    """Input on the network's grid (batch, channels, i, j, k) -> mean target over Omega (batch), through windows.

    `voxels` are those of the lesion (n, 3), or a mask (i, j, k), on the scan's grid. Only windows that meet Omega are run,
    in evaluation mode. `reduce="none"` returns y at every voxel (batch, voxels), in the order of the sorted voxels.
    Derivatives are with respect to the network's input: `placement.pull_back` takes them to the scan.

    Raises InputError for a mask of another shape than the scan's, or without a voxel.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: Spec,
        placement: Placement,
        voxels: VoxelSet | MaskArray,
        *,
        target: "str | AbstractTarget" = "log_odds",
        reduce: Literal["mean", "none"] = "mean",
    ) -> None:
        super().__init__()
        self.network = network
        self._spec, self._target, self._reduce = spec, target_named(target), reduce
        self._grid = WindowGrid.of(spec, tuple(placement.input.shape[2:]))  # type: ignore[arg-type]
        self._site: Site = locate(placement, self._grid, [_voxels_of(voxels, placement)])[0]

    @classmethod
    def at(cls, scene: Scene, site: Site) -> "InstanceTarget":
        """The target of a site, for methods that are written as functions of the network's input."""
        return cls(scene.runner.network, scene.spec, scene.placement, site.voxels, target=scene.target)

    def apply(self, fn: Callable[[nn.Module], None]) -> "InstanceTarget":
        """As of every module; warns where it is Captum's rule for ReLU layers and the network has none."""
        owner = type(getattr(fn, "__self__", None))
        if owner.__module__.startswith("captum") and owner.__name__ in _RELU_ONLY and not self._has_relu():
            kinds = {type(m).__name__ for m in self.network.modules() if not list(m.children())}
            acts = sorted(kind for kind in kinds if kind.endswith(("ELU", "ReLU", "GELU", "SiLU", "Mish", "Tanh")))
            warnings.warn(
                f"{owner.__name__} changes the derivative of ReLU layers only, and this network has none"
                f"{' (' + ', '.join(acts) + ')' if acts else ''}: what it returns is the plain gradient.",
                stacklevel=2,
            )
        super().apply(fn)
        return self

    def _has_relu(self) -> bool:
        return any(isinstance(module, nn.ReLU) for module in self.network.modules())

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Tensor:
        """The target of every scan in the batch."""
        with frozen(self.network):
            return self._values(x)

    def _values(self, x: Float[Tensor, "batch channels i j k"]) -> Tensor:
        padded, readout, grid = self._grid.pad(x), self._site.readout, self._grid
        outputs = self._spec.classes * self._spec.members
        fused = x.new_zeros((len(x), outputs, *readout.source.shape))
        for w in self._site.windows:
            window = padded[(..., *grid.boxes[w].slices)]
            logits = full_resolution(self.network(window), window.shape[2:])
            grid.fuse(fused, readout.source, w, logits)
        values = torch.stack([self._target.value(readout.read(own), self._spec) for own in fused])
        return values.mean(dim=1) if self._reduce == "mean" else values


class AbstractInputMethod(AbstractMethod):
    """A method of one's own that is a function of one lesion's target and the network's input, and of nothing else.

    Give it a `name` for files, `units`, and `attribute`; windows, folds, preprocessing, tables and reports are seen to.
    """

    @abstractmethod
    def attribute(
        self, function: InstanceTarget, x: Float[Tensor, "1 channels i j k"]
    ) -> Float[Tensor, "1 channels i j k"]:
        """A derivative of `function` (input -> one number per scan of the batch) with respect to its input `x`, signed."""

    def explain(self, scene: Scene, work: Work, sites: Sequence[Site]) -> Iterator[tuple[int, Attribution]]:
        """Site number and its map on the scan's grid, in `units` per SD of the channel."""
        for site in sites:
            began, function = time.perf_counter(), InstanceTarget.at(scene, site)
            x = scene.grid.unpad(scene.padded)[None].detach().clone()
            with torch.no_grad():
                value = float(function(x))
            found = self.attribute(function, x.requires_grad_(True))
            if not isinstance(found, Tensor) or found.shape != x.shape:
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise InputError(f"Expected {self.name} to return a map of shape {tuple(x.shape)}, found {shape}.")
            pulled = scene.placement.pull_back(found[0].detach().cpu()).numpy()
            a, b, c = pulled.shape[1:]
            box = trimmed(Box.whole((a, b, c)), pulled)
            data = pulled[(slice(None), *box.slices)].astype(np.float32)
            work.done(self.draws_per_lesion)
            yield site.number, Attribution(
                data, box, None, 1, None, data.max(axis=(1, 2, 3)), data.min(axis=(1, 2, 3)), None, None, value, None,
                time.perf_counter() - began,
            )  # fmt: skip


def _voxels_of(voxels: np.ndarray, placement: Placement) -> VoxelSet:
    """Voxels (n, 3) as they are, those of a mask."""
    if voxels.dtype != bool:
        return voxels
    wanted = tuple(placement.to_scan.target_shape)
    if voxels.shape != wanted or not voxels.any():
        raise InputError(f"Expected a mask of the scan's shape {wanted} with a voxel in it, found {voxels.shape}.")
    return np.argwhere(voxels)
