"""Derivatives over many draws, exact through all windows that meet an instance, shared by the instances that meet them.

Per draw n the derivative of an instance is the sum over windows of vector-Jacobian products with cotangent
dy/dz * a_w / sum_w a_w (METHOD section 2); only complete sums enter the statistics.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lesionwise.attribution.draws import AbstractDraws
from lesionwise.attribution.footprint import Footprint
from lesionwise.attribution.moments import Moments, placed
from lesionwise.attribution.passes import Cotangent, WindowPass
from lesionwise.attribution.scene import Scene
from lesionwise.attribution.site import Readout, Site
from lesionwise.attribution.workload import Workload
from lesionwise.types import Reduction
from lesionwise.volume import Box


@dataclass(eq=False)
class Patch:
    """Values on a box of a grid that grows as parts are laid down."""

    box: Box | None = None
    data: Tensor | None = None

    def reserve(self, box: Box, like: Tensor) -> Tensor:
        """The values, on a box that holds `box` too; new places are 0."""
        if self.box is None or self.data is None:
            self.box, self.data = box, like.new_zeros((like.shape[0], *box.shape))
        union = self.box.union(box)
        if union != self.box:
            self.box, self.data = union, placed(self.data, self.box, union)
        return self.data[(slice(None), *box.relative_to(self.box).slices)]

    def add(self, box: Box, values: Float[Tensor, "channels i j k"]) -> None:
        """Adds values on a box; may keep `values` itself."""
        if self.data is None:
            self.box, self.data = box, values
        else:
            self.reserve(box, values).add_(values)

    def keep_extreme(self, box: Box, stack: Float[Tensor, "count channels i j k"]) -> None:
        """Per place keeps the signed value of largest magnitude, of those there and those in the stack."""
        own = self.reserve(box, stack[0])
        if len(stack) == 1:
            best = stack[0]
        else:
            high, low = stack.amax(dim=0), stack.amin(dim=0)
            best = torch.where(high >= -low, high, low)
        own.copy_(torch.where(best.abs() > own.abs(), best, own))


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
    for footprint in workload.footprints.values():
        footprint.learnt = True
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


def _mean_block(
    scene: Scene,
    states: Sequence[Sampled],
    draws: AbstractDraws,
    numbers: Sequence[int],
    workload: Workload,
) -> dict[tuple[int, int], Patch]:
    windows = sorted({w for state in states for w in state.site.windows})
    items = [(n, w) for n in numbers for w in windows]
    chunks = [items[start : start + workload.batch] for start in range(0, len(items), workload.batch)]
    patches = {(position, n): Patch() for position in range(len(states)) for n in numbers}
    meeting = {w: [p for p, state in enumerate(states) if w in state.site.windows] for w in windows}

    def stack(chunk: list[tuple[int, int]]) -> Tensor:
        return torch.stack([draws.window(scene, n, w) for n, w in chunk])

    def footprint(chunk: list[tuple[int, int]]) -> Footprint | None:
        return workload.footprint(chunk[0][1]) if len(chunk) == 1 else None

    kept: list[WindowPass | None] = []
    seeds: dict[tuple[int, int], Tensor] = {}
    if not scene.target.is_linear(scene.spec):
        fused: dict[tuple[int, int], Tensor] = {}
        for chunk in chunks:
            keep = (len(kept) + 1) * workload.batch <= workload.kept_windows
            graph = scene.runner.forward(stack(chunk), footprint(chunk)) if keep else None
            kept.append(graph)
            logits = graph.logits.detach() if graph is not None else scene.runner.logits(stack(chunk), footprint(chunk))
            for (n, w), own in zip(chunk, logits, strict=True):
                for p in meeting[w]:
                    source = states[p].site.readout.source
                    if (p, n) not in fused:
                        fused[p, n] = own.new_zeros((len(own), *source.shape))
                    scene.fuse(fused[p, n], source, w, own)
        for (p, n), logits in fused.items():
            readout = states[p].site.readout
            seed = scene.target.seeds(readout.read(logits), scene.spec)
            seeds[p, n] = readout.spread(seed / len(readout.voxels))
    for position, chunk in enumerate(chunks):
        graph = kept[position] if position < len(kept) else None
        if graph is None:
            graph = scene.runner.forward(stack(chunk), footprint(chunk))
        elif position < len(kept):
            kept[position] = None
        cotangents = [
            [mean_cotangent(scene, states[p], w, seeds.get((p, n)), graph.logits) for p in meeting[w]] for n, w in chunk
        ]
        for part in graph.derivatives(cotangents):
            n, w = chunk[part.item]
            for member, values in zip(part.members, part.values, strict=True):
                box, inside = scene.in_volume(w, part.box, values)
                patches[meeting[w][member], n].add(box, inside)
        del graph
    return patches


def mean_cotangent(scene: Scene, state: Sampled, window: int, seed: Tensor | None, logits: Tensor) -> Cotangent:
    """dY/dz of one window for Y = mean of y over Omega; constant, and kept, for linear targets."""
    if seed is None and window in state.cotangents:
        return state.cotangents[window]
    readout = state.site.readout
    spread = seed
    if spread is None:
        flat = logits.new_zeros((logits.shape[1], len(readout.voxels)))
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
    for n in numbers:
        graphs = _Graphs(scene, draws, n, workload)
        seeds = _voxel_seeds(scene, states, graphs)
        for windows, voxels in _by_windows(scene, states).items():
            for start in range(0, len(voxels), workload.together):
                some = voxels[start : start + workload.together]
                total = _summed(scene, [(r, seeds[p][:, list(r.indices)]) for p, r in some], windows, graphs)
                for p in sorted({position for position, _ in some}):
                    members = [k for k, (position, _) in enumerate(some) if position == p]
                    box, stack = total
                    stack = stack if len(members) == len(stack) else stack[members]
                    if not states[p].site.moves_only:
                        stack, box = states[p].site.pull_back(stack, box)
                    patches[p, n].keep_extreme(box, stack)
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


def _voxel_seeds(scene: Scene, states: Sequence[Sampled], graphs: "_Graphs") -> list[Tensor]:
    outputs = scene.spec.classes * scene.spec.members
    fused = [scene.padded.new_zeros((outputs, *state.site.readout.source.shape)) for state in states]
    if not scene.target.is_linear(scene.spec):
        for w in sorted({w for state in states for w in state.site.windows}):
            logits = graphs.logits(w)
            for own, state in zip(fused, states, strict=True):
                if w in state.site.windows:
                    scene.fuse(own, state.site.readout.source, w, logits)
    return [
        scene.target.seeds(state.site.readout.read(own), scene.spec) for own, state in zip(fused, states, strict=True)
    ]


def _summed(
    scene: Scene, voxels: Sequence[tuple[Reading, Tensor]], windows: tuple[int, ...], graphs: "_Graphs"
) -> tuple[Box, Float[Tensor, "count channels i j k"]]:
    """D^v of a few voxels that lie in the same windows: box of the volume and values."""
    total: Tensor | None = None
    total_box: Box | None = None
    for w in windows:
        cotangents = []
        for reading, seed in voxels:
            local, own = scene.in_window(w, reading.readout.source)
            spread = reading.readout.spread(seed)[(slice(None), *own.slices)]
            cotangents.append(Cotangent(local, spread * scene.share(w, local)))
        for part in graphs.derivatives(w, cotangents):
            box, values = scene.in_volume(w, part.box, part.values)
            if total is None and len(part.members) == len(voxels):
                total_box, total = box, values if len(windows) == 1 else values.clone()
                continue
            union = box if total_box is None else box.union(total_box)
            if total is None or union != total_box:
                grown = values.new_zeros((len(voxels), values.shape[1], *union.shape))
                if total is not None and total_box is not None:
                    grown[(slice(None), slice(None), *total_box.relative_to(union).slices)] = total
                total_box, total = union, grown
            first, last = part.members[0], part.members[-1] + 1
            total[(slice(first, last), slice(None), *box.relative_to(union).slices)] += values
    if total is None or total_box is None:
        raise RuntimeError("A voxel that no window reads has no derivative.")
    return total_box, total


class _Graphs:
    """The windows' graphs of one draw: as many as memory allows are kept, the rest are made again when needed."""

    def __init__(self, scene: Scene, draws: AbstractDraws, draw: int, workload: Workload) -> None:
        self._scene, self._draws, self._draw, self._workload = scene, draws, draw, workload
        self._kept: OrderedDict[int, WindowPass] = OrderedDict()

    def logits(self, window: int) -> Tensor:
        if window in self._kept or len(self._kept) < self._workload.kept_windows:
            return self._graph(window).logits.detach()[0]
        return self._scene.runner.logits(self._input(window), self._workload.footprint(window))[0]

    def derivatives(self, window: int, cotangents: Sequence[Cotangent]) -> Iterator:
        return self._graph(window).derivatives([cotangents], last=False)

    def _graph(self, window: int) -> WindowPass:
        if window not in self._kept:
            while len(self._kept) >= self._workload.kept_windows:
                self._kept.popitem(last=False)
            footprint = self._workload.footprint(window)
            self._kept[window] = self._scene.runner.forward(self._input(window), footprint)
        self._kept.move_to_end(window)
        return self._kept[window]

    def _input(self, window: int) -> Tensor:
        return self._draws.window(self._scene, self._draw, window)[None]
