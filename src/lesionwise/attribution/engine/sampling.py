"""Derivatives over many draws, exact through all windows that meet an instance, shared by the instances that meet them.

Per draw n the derivative of an instance is the sum over windows of vector-Jacobian products with cotangent
dy/dz * a_w / sum_w a_w (METHOD section 2); only complete sums enter the statistics.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from lesionwise.attribution.engine.draws import AbstractDraws
from lesionwise.attribution.engine.moments import Moments, placed
from lesionwise.attribution.engine.passes import Cotangent, Derivatives, WindowPass, Windows
from lesionwise.attribution.engine.patch import Patch
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Readout, Site
from lesionwise.attribution.engine.workload import Pass, Workload, is_out_of_memory
from lesionwise.attribution.sparse.footprint import Footprint, Part
from lesionwise.attribution.sparse.outline import Outline
from lesionwise.geometry.box import Box
from lesionwise.types import Reduction

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
    readings: dict[tuple[int, ...], list["Reading"]] = field(default_factory=dict)
    correction: "Sampled | None" = None
    contributes: bool = False

    @property
    def moves_later(self) -> bool:
        """True if the map is moved to the scan's grid at the end: where nothing is mixed and nothing multiplied."""
        return self.site.moves_only and not self.contributes


@dataclass(frozen=True, eq=False)
class Reading:
    """How some voxels of Omega (`indices`; one, unless chunks are summed) read the fused logits."""

    indices: tuple[int, ...]
    readout: Readout


def accumulate(
    scene: Scene,
    states: Sequence[Sampled],
    draws: AbstractDraws,
    *,
    draw_numbers: Sequence[int],
    reduce: Reduction,
    workload: Workload,
) -> None:
    """Takes the draws with these numbers, in this order, for all states; after an out-of-memory error with less at once."""
    block = _mean_block if reduce == "mean" else _max_block
    patches = workload.run(lambda: block(scene, states, draws, draw_numbers, workload), scene.grid.window)
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


def learn(scene: Scene, sites: Sequence[Site], workload: Workload) -> list[Float[Tensor, "outputs _"]]:
    """Logits of the scan as it is at every voxel of Omega, over all views; on the way, what those voxels depend on in
    every window, and the statistics of normalisations that are held.

    One forward pass per view and window that meets any of the sites.
    """
    if scene.runner.strategy != "local" and scene.runner.held is None:
        return scene.fused(sites, batch=workload.schedule.batch)
    found: dict[int, Tensor] = {}
    for w in sorted({w for site in sites for w in site.windows}):
        own = [site for site in sites if w in site.windows]
        boxes = [scene.in_window(w, site.readout.source)[0] for site in own]
        for view in range(scene.runner.views):
            logits = learn_pass(scene, (w, view), boxes, workload.footprint(w, view))[0] / scene.runner.views
            for site in own:
                if site.number not in found:
                    found[site.number] = logits.new_zeros((len(logits), *site.readout.source.shape))
                scene.grid.fuse(found[site.number], site.readout.source, w, logits)
    return [
        site.readout.read(found[site.number])
        if site.number in found
        else scene.padded.new_zeros((_outputs(scene), len(site.voxels)))
        for site in sites
    ]


def learn_pass(scene: Scene, at: Pass, boxes: Sequence[Box], footprint: Footprint) -> Float[Tensor, "1 outputs i j k"]:
    """Logits of one window in one view, as it is; the footprint learns what the logits in `boxes` depend on.

    The graph holds no values. Where a network cannot be followed that way, it is run once more with them.
    """
    inputs = scene.window(at[0])[None]
    if scene.runner.strategy != "local":
        return scene.runner.logits(inputs, at=at)
    for outline in (Outline(), None):
        graph = scene.runner.forward(inputs, footprint, at=at, outline=outline)
        graph.learn(boxes)
        if not footprint.refused or outline is None:
            return graph.values
        footprint.forget()
    raise AssertionError("unreachable")


@dataclass(frozen=True, eq=False)
class _Passes:
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
                return run_fn(Part(inputs, within, whole))
            except (NotImplementedError, RuntimeError, TypeError) as error:
                if is_out_of_memory(error):
                    raise
            footprint.refused = True  # the network does something that only whole tensors can follow
        return run_fn(torch.stack([self.draws.window(self.scene, n, w) for n, w in zip(numbers, windows, strict=True)]))


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
) -> dict[tuple[int, int], Patch]:
    windows = sorted({w for state in states for w in state.site.windows})
    chunks = _chunks(scene, draws, numbers, windows, workload.schedule.batch)
    patches = {(position, n): Patch() for position in range(len(states)) for n in numbers}
    meeting = {w: [p for p, state in enumerate(states) if w in state.site.windows] for w in windows}
    share = {n: 1 / len(draws.views(scene, n)) for n in numbers}
    passes = _Passes(scene, draws, workload)
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
        groups = _runs(pairs, len(own)) if by_window else [pairs]
        chunks += [_Chunk(view, tuple(some)) for group in groups for some in _runs(group, batch)]
    return chunks


def _runs(items: Sequence, size: int) -> list:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _outputs(scene: Scene) -> int:
    return scene.spec.classes * scene.spec.members


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


def _max_block(
    scene: Scene,
    states: Sequence[Sampled],
    draws: AbstractDraws,
    numbers: Sequence[int],
    workload: Workload,
) -> dict[tuple[int, int], Patch]:
    """Voxel by voxel: the sum over a voxel's windows is complete before its magnitude is compared."""
    patches = {(position, n): Patch() for position in range(len(states)) for n in numbers}
    at_once = workload.schedule.batch if scene.runner.strategy == "local" else 1
    for some_numbers in _runs_of_one_view(scene, draws, numbers, at_once):
        graphs = _Graphs(_Passes(scene, draws, workload), some_numbers)
        seeds = _voxel_seeds(scene, states, graphs)
        for windows, voxels in _by_windows(scene, states).items():
            for some in _runs(voxels, workload.schedule.together):
                readings = [(r, [own[p][:, list(r.indices)] for own in seeds]) for p, r in some]
                for n, (box, stack) in zip(some_numbers, _summed(scene, readings, windows, graphs), strict=True):
                    for p in sorted({position for position, _ in some}):
                        members = [k for k, (position, _) in enumerate(some) if position == p]
                        values, place = stack if len(members) == len(stack) else stack[members], box
                        if not states[p].site.moves_only:
                            values, place = states[p].site.pull_back(values, box)
                        patches[p, n].keep_extreme(place, values)
    return patches


def _runs_of_one_view(scene: Scene, draws: AbstractDraws, numbers: Sequence[int], at_once: int) -> list[list[int]]:
    """Draws that run the same views, at most so many at once."""
    by_views: dict[tuple[int, ...], list[int]] = {}
    for n in numbers:
        by_views.setdefault(draws.views(scene, n), []).append(n)
    return [run for own in by_views.values() for run in _runs(own, at_once)]


def _by_windows(scene: Scene, states: Sequence[Sampled]) -> dict[tuple[int, ...], list[tuple[int, Reading]]]:
    """The chosen voxels of all instances, each with its instance's position, grouped by the windows that read them."""
    groups: dict[tuple[int, ...], list[tuple[int, Reading]]] = {}
    for position, state in enumerate(states):
        if not state.readings:
            for start in range(0, len(state.chosen), state.chunk):
                indices = state.chosen[start : start + state.chunk]
                readout = state.site.readout.subset(indices)
                if not readout.source.is_empty:
                    windows = tuple(w for w in state.site.windows if not scene.in_window(w, readout.source)[0].is_empty)
                    state.readings.setdefault(windows, []).append(Reading(indices, readout))
        for windows, readings in state.readings.items():
            groups.setdefault(windows, []).extend((position, reading) for reading in readings)
    return dict(sorted(groups.items()))


def _voxel_seeds(scene: Scene, states: Sequence[Sampled], graphs: "_Graphs") -> list[list[Tensor]]:
    """By draw and instance: dy[v]/dz[v] at the voxels of Omega."""
    fused = [
        [scene.padded.new_zeros((_outputs(scene), *state.site.readout.source.shape)) for state in states]
        for _ in graphs.numbers
    ]
    if not scene.target.is_linear(scene.spec):
        for w in sorted({w for state in states for w in state.site.windows}):
            for of_draw, logits in zip(fused, graphs.logits(w), strict=True):
                for own, state in zip(of_draw, states, strict=True):
                    if w in state.site.windows:
                        scene.grid.fuse(own, state.site.readout.source, w, logits)
    return [
        [scene.target.seeds(s.site.readout.read(own), scene.spec) for own, s in zip(of_draw, states, strict=True)]
        for of_draw in fused
    ]


def _summed(
    scene: Scene, voxels: Sequence[tuple[Reading, list[Tensor]]], windows: tuple[int, ...], graphs: "_Graphs"
) -> list[tuple[Box, Float[Tensor, "count channels i j k"]]]:
    """D^v of a few voxels that lie in the same windows, by draw: box of the volume and values."""
    totals = [Patch() for _ in graphs.numbers]
    for w in windows:
        cotangents: list[list[Cotangent]] = [[] for _ in totals]
        for reading, seeds in voxels:
            local, own = scene.in_window(w, reading.readout.source)
            share = scene.share(w, local) / len(graphs.views)
            for of_draw, seed in zip(cotangents, seeds, strict=True):
                spread = reading.readout.spread(seed)[(slice(None), *own.slices)]
                of_draw.append(Cotangent(local, spread * share))
        for part in (part for view in graphs.views for part in graphs.derivatives(w, view, cotangents)):
            box, values = scene.in_volume(w, part.box, part.values)
            total = totals[part.item]
            if len(part.members) == len(voxels):
                total.add(box, values)
                continue
            own_place = total.reserve(box, values.new_empty((len(voxels), *values.shape[1:])))
            own_place[part.members[0] : part.members[-1] + 1] += values
    found = [(total.box, total.data) for total in totals if total.box is not None and total.data is not None]
    if len(found) != len(totals):
        raise RuntimeError("A voxel that no window reads has no derivative.")
    return found


class _Graphs:
    """The windows' graphs of some draws, all in the same views: as many as memory allows are kept, the rest are made
    again when needed."""

    def __init__(self, passes: _Passes, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        self.views = passes.draws.views(passes.scene, numbers[0])
        self._passes, self._most = passes, max(passes.workload.schedule.kept_windows // len(numbers), 1)
        self._kept: OrderedDict[Pass, WindowPass] = OrderedDict()

    def logits(self, window: int) -> Float[Tensor, "draws outputs i j k"]:
        """The logits of one window, the mean over the views."""
        total: Tensor | None = None
        for view in self.views:
            if (window, view) in self._kept or len(self._kept) < self._most:
                logits = self._graph(window, view).values
            else:
                logits = self._passes.logits(self.numbers, [window] * len(self.numbers), view)
            total = logits if total is None else total + logits
        if total is None:
            raise RuntimeError("A network has at least one view.")
        return total if len(self.views) == 1 else total / len(self.views)

    def derivatives(self, window: int, view: int, cotangents: Sequence[Sequence[Cotangent]]) -> Iterator[Derivatives]:
        """Of one window in one view, for the cotangents of each draw."""
        return self._graph(window, view).derivatives(cotangents, last=False)

    def _graph(self, window: int, view: int) -> WindowPass:
        at = window, view
        if at not in self._kept:
            while len(self._kept) >= self._most:
                self._kept.popitem(last=False)
            self._kept[at] = self._passes.forward(self.numbers, [window] * len(self.numbers), view)
        self._kept.move_to_end(at)
        return self._kept[at]
