"""What the draws of an instance have come to, and the forward passes that they take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from lesionwise.attribution.engine.draws import AbstractDraws
from lesionwise.attribution.engine.moments import Moments
from lesionwise.attribution.engine.passes import Cotangent, WindowPass, Windows
from lesionwise.attribution.engine.regions import RegionSums
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Readout, Site
from lesionwise.attribution.engine.workload import Pass, Workload, is_out_of_memory
from lesionwise.attribution.sparse.footprint import Footprint, WindowPart
from lesionwise.geometry.box import Box

Found = TypeVar("Found")


@dataclass(eq=False)
class Sampled:
    """What the draws of one instance have come to so far; `box` is on the scan's grid unless the map `moves_later`.

    `correction` holds draws of the difference to the exact derivative, where statistics were held. `contributes` says that
    draws are multiplied on the scan's grid.
    """

    site: Site
    moments: Moments
    target_mean: float
    box: Box | None = None
    converged: bool | None = None
    seconds: float = 0.0
    chosen: tuple[int, ...] = ()
    chunk: int = 1
    cotangents: dict[int, Cotangent] = field(default_factory=dict)
    readings: dict[tuple[int, ...], list["VoxelReading"]] = field(default_factory=dict)
    correction: "Sampled | None" = None
    contributes: bool = False
    sums: RegionSums | None = None

    @property
    def moves_later(self) -> bool:
        """True if the map is moved to the scan's grid at the end: where nothing is mixed and nothing multiplied."""
        return self.site.moves_only and not self.contributes


@dataclass(frozen=True, eq=False)
class VoxelReading:
    """How some voxels of Omega (`indices`; one, unless chunks are summed) read the fused logits."""

    indices: tuple[int, ...]
    readout: Readout


@dataclass(frozen=True, eq=False)
class Passes:
    """Forward passes of windows in some draws, restricted to what is asked for once that is known."""

    scene: Scene
    draws: AbstractDraws
    workload: Workload

    def forward(self, numbers: Sequence[int], windows: Sequence[int], view: int) -> WindowPass:
        """The graph of (draw, window) pairs in one view; a local one is of one window in several draws."""
        runner, at = self.scene.runner, (windows[0], view)
        footprint = self._footprint(at)
        return self._restricted(lambda inputs: runner.forward(inputs, footprint, at=at), numbers, windows, footprint)

    def logits(self, numbers: Sequence[int], windows: Sequence[int], view: int) -> Float[Tensor, "batch outputs i j k"]:
        """The same without a graph."""
        runner, at = self.scene.runner, (windows[0], view)
        footprint = self._footprint(at)
        return self._restricted(lambda inputs: runner.logits(inputs, footprint, at=at), numbers, windows, footprint)

    def _footprint(self, at: Pass) -> Footprint | None:
        return self.workload.footprint(*at) if self.scene.runner.strategy == "local" else None

    def _restricted(
        self,
        run_fn: Callable[[Windows], Found],
        numbers: Sequence[int],
        windows: Sequence[int],
        footprint: Footprint | None,
    ) -> Found:
        whole = self.scene.grid.window
        if footprint is not None and footprint.within is not None:
            within = footprint.within
            inputs = self.draws.parts(self.scene, numbers, windows[0], within)
            try:
                return run_fn(WindowPart(inputs, within, whole))
            except (NotImplementedError, RuntimeError, TypeError) as error:
                if is_out_of_memory(error):
                    raise
            footprint.refused = True  # the network does something that only whole tensors can follow
        return run_fn(torch.stack([self.draws.window(self.scene, n, w) for n, w in zip(numbers, windows, strict=True)]))


def runs_of(items: Sequence, size: int) -> list:
    return [items[start : start + size] for start in range(0, len(items), size)]
