"""Reduction max: the derivative of every voxel of Omega apart, of which the signed value of largest magnitude is kept."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from lesionwise.attribution.engine.draws import AbstractDraws
from lesionwise.attribution.engine.learning import outputs_of
from lesionwise.attribution.engine.passes import Cotangent, Derivatives, WindowPass
from lesionwise.attribution.engine.patch import Patch
from lesionwise.attribution.engine.sampled import Passes, Sampled, VoxelReading, runs_of
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.workload import Pass, Workload
from lesionwise.geometry.box import Box


def max_block(
    scene: Scene,
    states: Sequence[Sampled],
    draws: AbstractDraws,
    numbers: Sequence[int],
    workload: Workload,
    progress_fn: Callable[[float], None] | None = None,
) -> dict[tuple[int, int], Patch]:
    """Voxel by voxel: the sum over a voxel's windows is complete before its magnitude is compared.

    `progress_fn` hears the share of voxels and draws that is done.
    """
    patches = {(position, n): Patch() for position in range(len(states)) for n in numbers}
    at_once = workload.schedule.batch if scene.runner.strategy == "local" else 1
    done, asked = 0, len(numbers) * sum(len(state.chosen) for state in states)
    for some_numbers in _runs_of_one_view(scene, draws, numbers, at_once):
        graphs = _Graphs(Passes(scene, draws, workload), some_numbers)
        seeds = _voxel_seeds(scene, states, graphs)
        for windows, voxels in _by_windows(scene, states).items():
            for some in runs_of(voxels, workload.schedule.together):
                readings = [(r, [own[p][:, list(r.indices)] for own in seeds]) for p, r in some]
                for n, (box, stack) in zip(some_numbers, _summed(scene, readings, windows, graphs), strict=True):
                    for p in sorted({position for position, _ in some}):
                        members = [k for k, (position, _) in enumerate(some) if position == p]
                        values, place = stack if len(members) == len(stack) else stack[members], box
                        if not states[p].site.moves_only:
                            values, place = states[p].site.pull_back(values, box)
                        patches[p, n].keep_extreme(place, values)
                done += len(some_numbers) * sum(len(reading.indices) for _, reading in some)
                if progress_fn is not None:
                    progress_fn(done / asked)
    return patches


def _runs_of_one_view(scene: Scene, draws: AbstractDraws, numbers: Sequence[int], at_once: int) -> list[list[int]]:
    """Draws that run the same views, at most so many at once."""
    by_views: dict[tuple[int, ...], list[int]] = {}
    for n in numbers:
        by_views.setdefault(draws.views(scene, n), []).append(n)
    return [run for own in by_views.values() for run in runs_of(own, at_once)]


def _by_windows(scene: Scene, states: Sequence[Sampled]) -> dict[tuple[int, ...], list[tuple[int, VoxelReading]]]:
    """The chosen voxels of all instances, each with its instance's position, grouped by the windows that read them."""
    groups: dict[tuple[int, ...], list[tuple[int, VoxelReading]]] = {}
    for position, state in enumerate(states):
        if not state.readings:
            for start in range(0, len(state.chosen), state.chunk):
                indices = state.chosen[start : start + state.chunk]
                readout = state.site.readout.subset(indices)
                if not readout.source.is_empty:
                    windows = tuple(w for w in state.site.windows if not scene.in_window(w, readout.source)[0].is_empty)
                    state.readings.setdefault(windows, []).append(VoxelReading(indices, readout))
        for windows, readings in state.readings.items():
            groups.setdefault(windows, []).extend((position, reading) for reading in readings)
    return dict(sorted(groups.items()))


def _voxel_seeds(scene: Scene, states: Sequence[Sampled], graphs: "_Graphs") -> list[list[Tensor]]:
    """By draw and instance: dy[v]/dz[v] at the voxels of Omega."""
    fused = [
        [scene.padded.new_zeros((outputs_of(scene), *state.site.readout.source.shape)) for state in states]
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
    scene: Scene, voxels: Sequence[tuple[VoxelReading, list[Tensor]]], windows: tuple[int, ...], graphs: "_Graphs"
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

    def __init__(self, passes: Passes, numbers: Sequence[int]) -> None:
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
