"""An instance's target as an ordinary module, so that any attribution of Captum (or anyone's) can be asked about it."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.attribution.engine.site import Site, VoxelSet, locate
from lesionwise.attribution.target import AbstractTarget, target_named
from lesionwise.segmenter import Placement, Spec, full_resolution
from lesionwise.windows import WindowGrid


class InstanceTarget(nn.Module):
    """Input on the network's grid (batch, channels, i, j, k) -> mean target over Omega (batch), through windows.

    Only windows that meet Omega are run. `reduce="none"` returns y at every voxel (batch, voxels), in the order of the
    sorted voxels. Derivatives are with respect to the network's input: `placement.pull_back` takes them to the scan.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: Spec,
        placement: Placement,
        voxels: VoxelSet,
        *,
        target: "str | AbstractTarget" = "log_odds",
        reduce: Literal["mean", "none"] = "mean",
    ) -> None:
        super().__init__()
        self.network = network
        self._spec, self._target, self._reduce = spec, target_named(target), reduce
        self._grid = WindowGrid.of(spec, tuple(placement.input.shape[2:]))  # type: ignore[arg-type]
        self._site: Site = locate(placement, self._grid, [voxels])[0]

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Tensor:
        """The target of every scan in the batch."""
        padded, readout, grid = self._grid.pad(x), self._site.readout, self._grid
        outputs = self._spec.classes * self._spec.members
        fused = x.new_zeros((len(x), outputs, *readout.source.shape))
        for w in self._site.windows:
            window = padded[(..., *grid.boxes[w].slices)]
            logits = full_resolution(self.network(window), window.shape[2:])
            grid.fuse(fused, readout.source, w, logits)
        values = torch.stack([self._target.value(readout.read(own), self._spec) for own in fused])
        return values.mean(dim=1) if self._reduce == "mean" else values
