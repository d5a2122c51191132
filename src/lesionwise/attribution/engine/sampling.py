"""Derivatives over many draws, exact through all windows that meet an instance, shared by the instances that meet them.

Per draw n the derivative of an instance is the sum over windows of vector-Jacobian products with cotangent
dy/dz * a_w / sum_w a_w (METHOD section 2); only complete sums enter the statistics.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
from lesionwise.attribution.engine.workload import Workload, is_out_of_memory
from lesionwise.attribution.sparse.footprint import Footprint, Part
from lesionwise.geometry.box import Box
from lesionwise.types import Reduction

Found = TypeVar("Found")


@dataclass(eq=False)
class Sampled:
    """What the draws of one instance have come to so far; `box` is on the scan's grid unless the site only moves."""

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


def _take(scene: Scene, state: Sampled, draws: AbstractDraws, n: int, patch: Patch, reduce: Reduction) -> None:
    if patch.box is None or patch.data is None:
        return
    box, data = patch.box, patch.data
    if reduce == "mean":
        factor = draws.factor(scene, n, box)
        if factor is not None:
            data = data * factor
        if not state.site.moves_only:
            data, box = state.site.pull_back(data, box, power=0 if draws.are_contributions else 1)
    if state.box is None:
        state.box = box
    elif state.box != box:  # another batch, another way of taking derivatives: 0 is known beyond either box
        union = state.box.union(box)
        state.moments.widen(state.box, union)
        data, state.box = placed(data, box, union), union
    if reduce == "max":
        state.moments.count_signs(data)
    state.moments.add(data)


def learn(scene: Scene, sites: Sequence[Site], workload: Workload) -> list[Float[Tensor, "outputs _"]]:
    """Logits of the scan as it is at every voxel of Omega; on the way, what those voxels depend on in every window.

    One forward pass per window that meets any of the sites.
    """
    if scene.runner.strategy != "local":
        return scene.fused(sites, batch=workload.batch)
    found: dict[int, Tensor] = {}
    for w in sorted({w for site in sites for w in site.windows}):
        graph = scene.runner.forward(scene.window(w)[None], workload.footprint(w))
        logits, boxes = graph.values[0], []
        for site in sites:
            if w in site.windows:
                if site.number not in found:
                    found[site.number] = logits.new_zeros((len(logits), *site.readout.source.shape))
                scene.grid.fuse(found[site.number], site.readout.source, w, logits)
                boxes.append(scene.in_window(w, site.readout.source)[0])
        graph.learn(boxes)
        del graph
    return [
        site.readout.read(found[site.number])
        if site.number in found
        else scene.padded.new_zeros((_outputs(scene), len(site.voxels)))
        for site in sites
    ]


@dataclass(frozen=True, eq=False)
class _Passes:
    """Forward passes of windows in some draws, restricted to what is asked for once that is known."""

    scene: Scene
    draws: AbstractDraws
    workload: Workload

    def forward(self, numbers: Sequence[int], windows: Sequence[int]) -> WindowPass:
        """The graph of (draw, window) pairs; a local one is of one window in several draws."""
        runner, footprint = self.scene.runner, self._footprint(windows)
        return self._restricted(lambda inputs: runner.forward(inputs, footprint), numbers, windows, footprint)

    def logits(self, numbers: Sequence[int], windows: Sequence[int]) -> Float[Tensor, "batch outputs i j k"]:
        """The same without a graph."""
        runner, footprint = self.scene.runner, self._footprint(windows)
        return self._restricted(lambda inputs: runner.logits(inputs, footprint), numbers, windows, footprint)

    def _footprint(self, windows: Sequence[int]) -> Footprint | None:
        return self.workload.footprint(windows[0]) if self.scene.runner.strategy == "local" else None

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


def _mean_block(
    scene: Scene,
    states: Sequence[Sampled],
    draws: AbstractDraws,
    numbers: Sequence[int],
    workload: Workload,
) -> dict[tuple[int, int], Patch]:
    windows = sorted({w for state in states for w in state.site.windows})
    chunks = _chunks(numbers, windows, workload.batch, by_window=scene.runner.strategy == "local")
    patches = {(position, n): Patch() for position in range(len(states)) for n in numbers}
    meeting = {w: [p for p, state in enumerate(states) if w in state.site.windows] for w in windows}
    passes = _Passes(scene, draws, workload)
    kept: list[WindowPass | None] = []
    seeds: dict[tuple[int, int], Tensor] = {}
    if not scene.target.is_linear(scene.spec):
        fused: dict[tuple[int, int], Tensor] = {}
        for chunk in chunks:
            keep = (len(kept) + 1) * workload.batch <= workload.kept_windows
            graph = passes.forward(*zip(*chunk, strict=True)) if keep else None
            kept.append(graph)
            logits = graph.values if graph is not None else passes.logits(*zip(*chunk, strict=True))
            for (n, w), own in zip(chunk, logits, strict=True):
                for p in meeting[w]:
                    source = states[p].site.readout.source
                    if (p, n) not in fused:
                        fused[p, n] = own.new_zeros((len(own), *source.shape))
                    scene.grid.fuse(fused[p, n], source, w, own)
        for (p, n), logits in fused.items():
            readout = states[p].site.readout
            seed = scene.target.seeds(readout.read(logits), scene.spec)
            seeds[p, n] = readout.spread(seed / len(readout.voxels))
    for position, chunk in enumerate(chunks):
        graph = kept[position] if position < len(kept) else None
        if graph is None:
            graph = passes.forward(*zip(*chunk, strict=True))
        elif position < len(kept):
            kept[position] = None
        outputs = graph.logits.shape[1]
        cotangents = [
            [mean_cotangent(scene, states[p], w, seeds.get((p, n)), outputs) for p in meeting[w]] for n, w in chunk
        ]
        for part in graph.derivatives(cotangents):
            n, w = chunk[part.item]
            for member, values in zip(part.members, part.values, strict=True):
                box, inside = scene.in_volume(w, part.box, values)
                patches[meeting[w][member], n].add(box, inside)
        del graph
    return patches


def _chunks(
    numbers: Sequence[int], windows: Sequence[int], batch: int, *, by_window: bool
) -> list[list[tuple[int, int]]]:
    """(draw, window) pairs that go through the network together; `by_window` keeps to one window."""
    if by_window:
        return [[(n, w) for n in some] for w in windows for some in _runs(numbers, batch)]
    return _runs([(n, w) for n in numbers for w in windows], batch)


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
    at_once = workload.batch if scene.runner.strategy == "local" else 1
    for some_numbers in _runs(numbers, at_once):
        graphs = _Graphs(_Passes(scene, draws, workload), some_numbers)
        seeds = _voxel_seeds(scene, states, graphs)
        for windows, voxels in _by_windows(scene, states).items():
            for some in _runs(voxels, workload.together):
                readings = [(r, [own[p][:, list(r.indices)] for own in seeds]) for p, r in some]
                for n, (box, stack) in zip(some_numbers, _summed(scene, readings, windows, graphs), strict=True):
                    for p in sorted({position for position, _ in some}):
                        members = [k for k, (position, _) in enumerate(some) if position == p]
                        values, place = stack if len(members) == len(stack) else stack[members], box
                        if not states[p].site.moves_only:
                            values, place = states[p].site.pull_back(values, box)
                        patches[p, n].keep_extreme(place, values)
    return patches


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
            share = scene.share(w, local)
            for of_draw, seed in zip(cotangents, seeds, strict=True):
                spread = reading.readout.spread(seed)[(slice(None), *own.slices)]
                of_draw.append(Cotangent(local, spread * share))
        for part in graphs.derivatives(w, cotangents):
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
    """The windows' graphs of some draws: as many as memory allows are kept, the rest are made again when needed."""

    def __init__(self, passes: _Passes, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        self._passes, self._most = passes, max(passes.workload.kept_windows // len(numbers), 1)
        self._kept: OrderedDict[int, WindowPass] = OrderedDict()

    def logits(self, window: int) -> Float[Tensor, "draws outputs i j k"]:
        """The logits of one window."""
        if window in self._kept or len(self._kept) < self._most:
            return self._graph(window).values
        return self._passes.logits(self.numbers, [window] * len(self.numbers))

    def derivatives(self, window: int, cotangents: Sequence[Sequence[Cotangent]]) -> Iterator[Derivatives]:
        """Of one window, for the cotangents of each draw."""
        return self._graph(window).derivatives(cotangents, last=False)

    def _graph(self, window: int) -> WindowPass:
        if window not in self._kept:
            while len(self._kept) >= self._most:
                self._kept.popitem(last=False)
            self._kept[window] = self._passes.forward(self.numbers, [window] * len(self.numbers))
        self._kept.move_to_end(window)
        return self._kept[window]
