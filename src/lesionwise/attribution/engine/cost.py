"""What one window costs in every way there is, and which way is taken.

The way follows from counted work, from the device and from agreement with ordinary automatic differentiation: times are
measured to be told, never to choose by, so that equal input gives equal bytes.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lesionwise.attribution.engine.learning import learn_pass
from lesionwise.attribution.engine.network import watching_blocks
from lesionwise.attribution.engine.passes import Cotangent, Runner, WindowPass
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.workload import Pass, Schedule, is_out_of_memory
from lesionwise.attribution.sparse.footprint import Footprint, WindowPart
from lesionwise.attribution.sparse.outline import Outline
from lesionwise.geometry.box import Box
from lesionwise.norms import Statistics

_MOST_DRAWS = 4  # that go through a window together locally
_MOST_WINDOWS = 8  # that go through a GPU together
_VOXELS_TOGETHER = 4  # cotangents of single voxels behind one graph
_WORTH = 0.6  # share of the work above which boxes are not worth their overhead


@dataclass(frozen=True)
class Cost:
    """One window in one view: seconds of a forward and of a backward pass, bytes that its graph holds.

    `batch` windows go through the network together; locally they are draws of one window, and a pass of one holds
    `pass_bytes`. `recompute` as in `Schedule`.
    """

    forward_s: float = 0.0
    backward_s: float = 0.0
    graph_bytes: int = 0
    strategy: str = "loop"
    together: int = 1
    batch: int = 1
    pass_bytes: int = 0
    recompute: bool = False
    held: bool = False

    @property
    def seconds(self) -> float:
        """One forward and one backward pass."""
        return self.forward_s + self.backward_s

    def peak_bytes(self, passes: int) -> int:
        """With so many passes at a time."""
        return passes * (self.pass_bytes or self.graph_bytes)

    def schedule(self, kept_windows: int) -> Schedule:
        """As a schedule that keeps so many graphs."""
        return Schedule(self.strategy, self.batch, self.together, kept_windows, self.recompute)  # type: ignore[arg-type]


def dense_cost(
    scene: Scene, site: Site, *, budget: int, voxelwise: bool = False, thorough: bool = True
) -> tuple[Cost, Tensor | None]:
    """Whole windows by ordinary automatic differentiation, and the derivative of a probe on the instance's first window.

    Where a graph does not fit into `budget` bytes, blocks of the network are run again in the backward pass. The cost is
    without times, and the derivative None, if that does not fit either.
    """
    at = (site.windows[0], scene.runner.views - 1)
    plain = replace(scene.runner, strategy="loop", together=1, recompute=False, held=None)
    nbytes, again = graph_bytes(scene, plain, at)
    recompute = again < nbytes > budget
    if recompute:
        plain, nbytes = replace(plain, recompute=True), again
    cost = Cost(graph_bytes=nbytes, recompute=recompute)
    if nbytes > budget:
        return cost, None
    forward_s = backward_s = math.inf
    found: Tensor | None = None
    for _ in range(2 if thorough else 1):
        began = _now(scene)
        graph = plain.forward(scene.window(at[0])[None], at=at)
        middle = _now(scene)
        found = _derivative(graph, [[_probe(scene, site, at[0], graph.logits, voxelwise)]], graph.logits.shape[2:])
        forward_s, backward_s = min(forward_s, middle - began), min(backward_s, _now(scene) - middle)
        del graph
    batch = 1
    if scene.padded.is_cuda:
        while 2 * batch <= _MOST_WINDOWS and 2 * batch * nbytes <= budget // 2:
            batch *= 2
    found_cost = replace(cost, forward_s=forward_s, backward_s=backward_s, batch=batch)
    if voxelwise and scene.padded.is_cuda and thorough and not recompute and found is not None:
        found_cost = _batched(scene, site, found_cost, found)
    return found_cost, found


def _batched(scene: Scene, site: Site, cost: Cost, expected: Tensor) -> Cost:
    """Several cotangents behind one graph at once, for GPUs; the cost as it was where the network does not allow that."""
    at = (site.windows[0], scene.runner.views - 1)
    runner = replace(scene.runner, strategy="batched", together=_VOXELS_TOGETHER, held=None)
    try:
        graph = runner.forward(scene.window(at[0])[None], at=at)
        probe = _probe(scene, site, at[0], graph.logits, True)
        began = _now(scene)
        found = _derivative(graph, [[probe] * _VOXELS_TOGETHER], graph.logits.shape[2:])
        took = _now(scene) - began
    except (NotImplementedError, RuntimeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        return cost
    if not _agree(found, expected):
        return cost
    return replace(cost, strategy="batched", together=_VOXELS_TOGETHER, batch=1, backward_s=took / _VOXELS_TOGETHER)


def local_cost(
    scene: Scene, site: Site, dense: Cost, expected: Tensor | None, *, budget: int, voxelwise: bool, held: bool
) -> Cost | None:
    """The boxes that the instance needs of its first window, with statistics `held` or not.

    None if they are most of the window, if the network cannot be followed, or if the derivative is not that of ordinary
    automatic differentiation (`expected`; with statistics held it is computed here).
    """
    at = (site.windows[0], scene.runner.views - 1)
    statistics: dict[Pass, Statistics] | None = {} if held else None
    together = _VOXELS_TOGETHER if voxelwise else 1
    runner = replace(scene.runner, strategy="local", together=together, recompute=False, held=statistics)
    footprint, running = Footprint(), scene.running(runner)
    try:
        box = scene.in_window(at[0], site.readout.source)[0]
        logits = learn_pass(running, at, [box], footprint)
        if footprint.refused or footprint.share_of_work > _WORTH or footprint.within is None:
            return None
        if held and expected is not None:
            plain = replace(runner, strategy="loop")
            graph = plain.forward(scene.window(at[0])[None], at=at)
            expected = _derivative(graph, [[_probe(scene, site, at[0], logits, voxelwise)]], logits.shape[2:])
            del graph
        probe = _probe(scene, site, at[0], logits, voxelwise)
        nbytes = 2 * footprint.held_bytes
        # Either voxels behind one graph or draws of one window: both at once no longer fit into a processor's cache.
        batch = 1 if voxelwise else next((n for n in (_MOST_DRAWS, _MOST_DRAWS // 2) if n * nbytes <= budget), 1)
        forward_s = backward_s = math.inf
        for attempt in range(3):  # the first prepares: weights are laid out, libraries loaded
            within = footprint.within
            inputs = scene.window(at[0], within)[None].expand(batch, -1, -1, -1, -1)
            began = _now(scene)
            graph = runner.forward(WindowPart(inputs, within, scene.grid.window), footprint, at=at)
            middle = _now(scene)
            found = _derivative(graph, [[probe] * together] * batch, logits.shape[2:])
            ended = _now(scene)
            if attempt == 0 and expected is not None and not _agree(found, expected):
                return None
            if attempt:
                forward_s = min(forward_s, (middle - began) / batch)
                backward_s = min(backward_s, (ended - middle) / together / batch)
    except (NotImplementedError, RuntimeError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return None
    return Cost(forward_s, backward_s, dense.graph_bytes, "local", together, batch, nbytes, held=held)


def graph_bytes(scene: Scene, runner: Runner, at: Pass) -> tuple[int, int]:
    """Bytes that the graph of one window holds, and those where its blocks run again; counted without holding them."""
    outline = Outline()
    with watching_blocks(runner.network, lambda: outline.nbytes) as blocks:
        runner.forward(scene.window(at[0])[None], at=at, outline=outline)
    inside = [held for _, held in blocks]
    again = outline.nbytes - sum(inside) + sum(inputs for inputs, _ in blocks) + max(inside, default=0)
    return outline.nbytes, again


def _derivative(graph: WindowPass, cotangents: list[list[Cotangent]], size: Sequence[int]) -> Tensor:
    """The derivative of the first cotangent on the whole window (channels, i, j, k)."""
    whole: Tensor | None = None
    for part in graph.derivatives(cotangents):
        if whole is None:
            whole = part.values.new_zeros((part.values.shape[1], *size))
            whole[(slice(None), *part.box.slices)] = part.values[0]
    if whole is None:
        raise RuntimeError("A probe needs a derivative.")
    return whole


def _agree(found: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-10 if expected.dtype == torch.float64 else 2e-3
    return bool(float((found - expected).abs().max()) <= tolerance * float(expected.abs().max()))


def _probe(scene: Scene, site: Site, window: int, logits: Tensor, voxelwise: bool) -> Cotangent:
    """A cotangent of ones on what the instance reads of a window, or on the first voxel of that."""
    local, _ = scene.in_window(window, site.readout.source)
    if voxelwise:
        local = Box(local.start, (local.start[0] + 1, local.start[1] + 1, local.start[2] + 1))
    return Cotangent(local, logits.new_ones((logits.shape[1], *local.shape)))


def _now(scene: Scene) -> float:
    if scene.padded.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
