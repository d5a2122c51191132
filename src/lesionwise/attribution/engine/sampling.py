"""Derivatives over many draws, exact through all windows that meet an instance, shared by the instances that meet them.

Per draw n the derivative of an instance is the sum over windows of vector-Jacobian products with cotangent
dy/dz * a_w / sum_w a_w (METHOD section 2); only complete sums enter the statistics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from lesionwise.attribution.engine.draws import AbstractDraws
from lesionwise.attribution.engine.moments import placed
from lesionwise.attribution.engine.passes import Cotangent, WindowPass
from lesionwise.attribution.engine.patch import Patch
from lesionwise.attribution.engine.sampled import Passes, Sampled, runs_of
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.voxelwise import max_block
from lesionwise.attribution.engine.workload import Workload
from lesionwise.geometry.box import Box
from lesionwise.types import Reduction


def accumulate(
    scene: Scene,
    states: Sequence[Sampled],
    draws: AbstractDraws,
    *,
    draw_numbers: Sequence[int],
    reduce: Reduction,
    workload: Workload,
    progress_fn: Callable[[float], None] | None = None,
) -> None:
    """Takes the draws with these numbers, in this order, for all states; after an out-of-memory error with less at once.

    `progress_fn` hears the share that is done, from 0 again after such an error.
    """
    block = _mean_block if reduce == "mean" else max_block
    patches = workload.run(lambda: block(scene, states, draws, draw_numbers, workload, progress_fn), scene.grid.window)
    for position, state in enumerate(states):
        for n in draw_numbers:
            _take(scene, state, draws, n, patches.pop((position, n)), reduce)


def accumulate_difference(
    scenes: tuple[Scene, Scene],
    states: Sequence[Sampled],
    draws: AbstractDraws,
    *,
    draw_numbers: Sequence[int],
    workloads: tuple[Workload, Workload],
) -> None:
    """Takes draws of what the first scene's derivative exceeds the second's by, at the same inputs (mean over Omega)."""
    first, second = (
        workload.run(partial(_mean_block, scene, states, draws, draw_numbers, workload), scene.grid.window)
        for scene, workload in zip(scenes, workloads, strict=True)
    )
    for position, state in enumerate(states):
        for n in draw_numbers:
            patch, other = first.pop((position, n)), second.pop((position, n))
            if other.box is not None and other.data is not None:
                patch.add(other.box, -other.data)
            _take(scenes[0], state, draws, n, patch, "mean")


def _take(scene: Scene, state: Sampled, draws: AbstractDraws, n: int, patch: Patch, reduce: Reduction) -> None:
    if patch.box is None or patch.data is None:
        return
    box, data = patch.box, patch.data
    if reduce == "mean":
        if draws.are_contributions:
            data, box = _multiplied(scene, state.site, draws, n, data, box)
        elif not state.moves_later:
            data, box = state.site.pull_back(data, box)
    if state.sums is not None:
        state.sums.add(data, box)
    if state.box is None:
        state.box = box
    elif state.box != box:  # another batch, another way of taking derivatives: 0 is known beyond either box
        union = state.box.union(box)
        state.moments.widen(state.box, union)
        data, state.box = placed(data, box, union), union
    if reduce == "max":
        state.moments.count_signs(data)
    state.moments.add(data)


def _multiplied(scene: Scene, site: Site, draws: AbstractDraws, n: int, data: Tensor, box: Box) -> tuple[Tensor, Box]:
    """The derivative on the scan's own voxels times what the draw says, where preprocessing clipped nothing."""
    passes = scene.placement.passes
    if passes is not None:
        data = data * passes[(slice(None), *box.slices)].to(data)
    data, box = site.pull_back(data, box, power=0)
    factor = draws.factor(scene, n, box)
    return (data if factor is None else data * factor.to(data)), box


@dataclass(frozen=True)
class _Chunk:
    """(draw, window) pairs that go through the network together, in one view."""

    view: int
    pairs: tuple[tuple[int, int], ...]

    @property
    def numbers(self) -> list[int]:
        return [n for n, _ in self.pairs]

    @property
    def windows(self) -> list[int]:
        return [w for _, w in self.pairs]


def _mean_block(
    scene: Scene,
    states: Sequence[Sampled],
    draws: AbstractDraws,
    numbers: Sequence[int],
    workload: Workload,
    progress_fn: Callable[[float], None] | None = None,
) -> dict[tuple[int, int], Patch]:
    windows = sorted({w for state in states for w in state.site.windows})
    chunks = _chunks(scene, draws, numbers, windows, workload.schedule.batch)
    patches = {(position, n): Patch() for position in range(len(states)) for n in numbers}
    meeting = {w: [p for p, state in enumerate(states) if w in state.site.windows] for w in windows}
    share = {n: 1 / len(draws.views(scene, n)) for n in numbers}
    passes = Passes(scene, draws, workload)
    kept: list[WindowPass | None] = []
    seeds: dict[tuple[int, int], Tensor] = {}
    if not scene.target.is_linear(scene.spec):
        fused: dict[tuple[int, int], Tensor] = {}
        for chunk in chunks:
            keep = (len(kept) + 1) * workload.schedule.batch <= workload.schedule.kept_windows
            graph = passes.forward(chunk.numbers, chunk.windows, chunk.view) if keep else None
            kept.append(graph)
            logits = graph.values if graph else passes.logits(chunk.numbers, chunk.windows, chunk.view)
            for (n, w), own in zip(chunk.pairs, logits, strict=True):
                for p in meeting[w]:
                    source = states[p].site.readout.source
                    if (p, n) not in fused:
                        fused[p, n] = own.new_zeros((len(own), *source.shape))
                    scene.grid.fuse(fused[p, n], source, w, own * share[n])
        for (p, n), logits in fused.items():
            readout = states[p].site.readout
            seed = scene.target.seeds(readout.read(logits), scene.spec)
            seeds[p, n] = readout.spread(seed / len(readout.voxels))
    for position, chunk in enumerate(chunks):
        graph = kept[position] if position < len(kept) else None
        if graph is None:
            graph = passes.forward(chunk.numbers, chunk.windows, chunk.view)
        elif position < len(kept):
            kept[position] = None
        outputs = graph.logits.shape[1]
        cotangents = [
            [mean_cotangent(scene, states[p], w, seeds.get((p, n)), outputs) for p in meeting[w]]
            for n, w in chunk.pairs
        ]
        for part in graph.derivatives(cotangents):
            n, w = chunk.pairs[part.item]
            for member, values in zip(part.members, part.values, strict=True):
                box, inside = scene.in_volume(w, part.box, values)
                patches[meeting[w][member], n].add(box, inside if share[n] == 1 else inside * share[n])
        del graph
        if progress_fn is not None:
            progress_fn((position + 1) / len(chunks))
    return patches


def _chunks(
    scene: Scene, draws: AbstractDraws, numbers: Sequence[int], windows: Sequence[int], batch: int
) -> list[_Chunk]:
    """All (draw, window) pairs, view by view; a local chunk keeps to one window, as does one with statistics held."""
    of_view: dict[int, list[int]] = {}
    for n in numbers:
        for view in draws.views(scene, n):
            of_view.setdefault(view, []).append(n)
    by_window = scene.runner.strategy == "local" or scene.runner.held is not None
    chunks = []
    for view, own in sorted(of_view.items()):
        pairs = [(n, w) for w in windows for n in own] if by_window else [(n, w) for n in own for w in windows]
        groups = runs_of(pairs, len(own)) if by_window else [pairs]
        chunks += [_Chunk(view, tuple(some)) for group in groups for some in runs_of(group, batch)]
    return chunks


def mean_cotangent(scene: Scene, state: Sampled, window: int, seed: Tensor | None, outputs: int) -> Cotangent:
    """dY/dz of one window for Y = mean of y over Omega; constant, and kept, for linear targets."""
    if seed is None and window in state.cotangents:
        return state.cotangents[window]
    readout = state.site.readout
    spread = seed
    if spread is None:
        flat = scene.padded.new_zeros((outputs, len(readout.voxels)))
        spread = readout.spread(scene.target.seeds(flat, scene.spec) / len(readout.voxels))
    local, own = scene.in_window(window, readout.source)
    cotangent = Cotangent(local, spread[(slice(None), *own.slices)] * scene.share(window, local))
    if seed is None:
        state.cotangents[window] = cotangent
    return cotangent
