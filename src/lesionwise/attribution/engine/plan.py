"""What explaining will cost, measured before it starts, and how the work is cut so that it fits into memory."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.passes import Cotangent, Runner, Strategy
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site, VoxelSet, centred, locate
from lesionwise.attribution.engine.workload import Workload, is_out_of_memory
from lesionwise.attribution.sparse.footprint import Footprint, Part
from lesionwise.attribution.target import AbstractTarget
from lesionwise.errors import OutOfMemoryError
from lesionwise.geometry.box import Box
from lesionwise.segmenter import Placement, Spec

_MAPS_PER_LESION = 6  # mean and squares of both halves, the draw, and what a reduction copies
_DEFAULT_MEMORY = 4 << 30
_MOST_DRAWS = 4  # that go through a window together locally
_ATTEMPTS = 10  # of a local pass, whose convolutions try out their ways in the first ones
_HOPE = 2.0  # batches are tried where one window at a time is at most this much slower than the best way known


@dataclass(frozen=True)
class Plan:
    """How much work there is and how it is cut. `groups` hold instance numbers (from 0) explained together."""

    lesions: int
    windows: int
    draws: int
    forward_passes: int
    backward_passes: int
    groups: tuple[tuple[int, ...], ...]
    strategy: Strategy
    batch: int
    together: int
    kept_windows: int
    seconds: float
    memory_bytes: int
    device: str

    def describe(self) -> str:
        """One line for a person who is about to wait."""
        count = f"{self.lesions} lesion{'s' if self.lesions != 1 else ''}"
        windows = f"{self.windows} window{'s' if self.windows != 1 else ''}"
        draws = f"{self.draws} draw{'s' if self.draws != 1 else ''} each"
        return (
            f"{count} in {windows}, {draws}: {self.forward_passes:,} forward and "
            f"{self.backward_passes:,} backward passes on {self.device}, about {_duration(self.seconds)}, "
            f"{self.memory_bytes / 2**30:.1f} GiB of memory"
        )

    def __str__(self) -> str:
        return self.describe()


@dataclass(frozen=True)
class Cost:
    """Measured on one window: seconds of a forward and of a backward pass, bytes that its graph holds.

    `batch` windows go through the network together; locally they are draws of one window, and a pass of one holds
    `pass_bytes`.
    """

    forward_s: float
    backward_s: float
    graph_bytes: int
    strategy: Strategy
    together: int
    batch: int = 1
    pass_bytes: int = 0

    @property
    def seconds(self) -> float:
        """One forward and one backward pass."""
        return self.forward_s + self.backward_s

    def peak_bytes(self, passes: int) -> int:
        """With so many passes at a time; locally one whole graph comes before them."""
        return max(self.graph_bytes, passes * self.pass_bytes) if self.pass_bytes else passes * self.graph_bytes


def plan_attribution(
    network: nn.Module,
    spec: Spec,
    placement: Placement,
    voxel_sets: Sequence[VoxelSet],
    *,
    method: AbstractMethod,
    target: "str | AbstractTarget" = "log_odds",
    memory_bytes: int | None = None,
    device: str | torch.device = "cpu",
    lesion_window: bool = False,
) -> Plan:
    """Measures one window and says what the instances will cost.

    Raises OutOfMemoryError if even one window at a time does not fit into `memory_bytes`.
    """
    with Scene.open(network, spec, placement, target=target, device=device) as scene:
        scene, sites = seen(scene, voxel_sets, lesion_window=lesion_window)
        return plan_sites(scene, sites, method, memory_bytes=memory_bytes)


def seen(scene: Scene, voxel_sets: Sequence[VoxelSet], *, lesion_window: bool) -> tuple[Scene, list[Site]]:
    """The instances' sites over the fused windows or, as an approximation, each in one window around it."""
    sites = locate(scene.placement, scene.grid, voxel_sets)
    if not lesion_window:
        return scene, sites
    grid, sites = centred(scene.placement, scene.grid, sites)
    return scene.over(grid), sites


def plan_sites(scene: Scene, sites: Sequence[Site], method: AbstractMethod, *, memory_bytes: int | None = None) -> Plan:
    """The plan for sites that are already located."""
    budget = memory_bytes or _DEFAULT_MEMORY
    reached = [site for site in sites if site.windows]
    cost = (
        Workload().run(
            partial(_measured, scene, reached[usual([len(site.voxels) for site in reached])], method, budget),
            scene.grid.window,
        )
        if reached
        else Cost(0.0, 0.0, 0, "loop", 1)
    )
    if cost.graph_bytes > budget:
        raise OutOfMemoryError(
            f"One window needs {cost.graph_bytes / 2**30:.1f} GiB, more than the {budget / 2**30:.1f} GiB allowed; "
            "expected a smaller window or more memory."
        )
    groups = grouped(sites, scene, budget=budget - cost.peak_bytes(cost.batch), shared=method.shares_draws)
    by_number = {site.number: site for site in sites}
    draws = method.draws_per_lesion
    linear = scene.target.is_linear(scene.spec)
    forwards = backwards = 0
    for group in groups:
        members = [by_number[n] for n in group]
        met = len({w for site in members for w in site.windows})
        forwards += met * (draws + 1)
        backwards += draws * sum(len(site.windows) * _seeds(method, site) for site in members)
    state = max((sum(_bytes(scene, by_number[n]) for n in group) for group in groups), default=0)
    each = cost.pass_bytes or cost.graph_bytes
    kept = max(1, min(8 * (cost.batch if cost.pass_bytes else 1), (budget - state) // max(each, 1)))
    if not linear and kept < 2 * cost.batch:
        forwards *= 2
    return Plan(
        lesions=len(sites),
        windows=len({w for site in sites for w in site.windows}),
        draws=draws,
        forward_passes=forwards,
        backward_passes=backwards,
        groups=groups,
        strategy=cost.strategy,
        batch=cost.batch,
        together=cost.together,
        kept_windows=int(kept),
        seconds=forwards * cost.forward_s + backwards * cost.backward_s,
        memory_bytes=int(state + cost.peak_bytes(cost.batch if linear and method.seeds_per_lesion == 1 else kept)),
        device=str(scene.padded.device),
    )


def grouped(sites: Sequence[Site], scene: Scene, *, budget: int, shared: bool = True) -> tuple[tuple[int, ...], ...]:
    """Site numbers in groups whose maps fit into `budget` bytes, lesions of the same windows together."""
    if not shared:
        return tuple((site.number,) for site in sites)
    groups: list[list[int]] = []
    used = math.inf
    for site in sorted(sites, key=lambda site: (site.windows, site.number)):
        size = _bytes(scene, site)
        if used + size > budget:
            groups.append([])
            used = 0
        groups[-1].append(site.number)
        used += size
    return tuple(tuple(group) for group in groups)


def usual(sizes: Sequence[int]) -> int:
    """Which of some lesions is of median size (the smaller of two in the middle): one that fills its window says nothing
    of the others."""
    return sorted(range(len(sizes)), key=lambda place: sizes[place])[(len(sizes) - 1) // 2]


def _measured(scene: Scene, site: Site, method: AbstractMethod, budget: int) -> Cost:
    voxelwise, thorough = method.seeds_per_lesion != 1, method.draws_per_lesion > 2
    return measure(scene, site, voxelwise=voxelwise, thorough=thorough, budget=budget - _bytes(scene, site))


def measure(
    scene: Scene, site: Site, *, voxelwise: bool = False, thorough: bool = True, budget: int = _DEFAULT_MEMORY
) -> Cost:
    """Runs one window forward and backward in every way there is, and takes the fastest that agrees with the plain one.

    `voxelwise` asks for many cotangents of one voxel each (reduction max) instead of one per lesion.
    Without `thorough` only the plain way is measured, once. Batches of windows are tried within `budget` bytes.
    """
    window = site.windows[0]
    plain = Runner(scene.runner.network, autocast=scene.runner.autocast)
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    forward_s = backward_s = math.inf
    expected: Tensor | None = None
    probes: list[Cotangent] = []
    for _ in range(2 if thorough else 1):
        held.clear()  # one graph's tensors, not those of every try
        began = _now(scene)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            graph = plain.forward(scene.window(window)[None])
        middle = _now(scene)
        probes = [_probe(scene, site, window, graph.logits, voxelwise=voxelwise)]
        for part in graph.derivatives([probes]):
            expected = part.values[0]
        forward_s, backward_s = min(forward_s, middle - began), min(backward_s, _now(scene) - middle)
    patience_s = 2 * (forward_s + backward_s)
    best = dense = Cost(forward_s, backward_s, sum(held.values()), "loop", 1)
    if expected is None or not thorough:
        return best
    for strategy, together in (("local", 1), *((("local", 4), ("batched", 4)) if voxelwise else ())):
        runner = Runner(scene.runner.network, strategy, together, scene.runner.autocast)
        found = _try(scene, runner, window, probes * together, expected, patience_s)
        if found is not None and sum(found[:2]) < 0.95 * (best.forward_s * (not voxelwise) + best.backward_s):
            best = Cost(found[0], found[1], best.graph_bytes, strategy, together, pass_bytes=found[2])
    if (
        best.strategy == "local"
    ):  # draws of one window go together, and read every weight once; too brief to be measured
        for batch in (_MOST_DRAWS, _MOST_DRAWS // 2):
            if batch * best.pass_bytes > budget or not thorough:
                continue
            runner = Runner(scene.runner.network, "local", best.together, scene.runner.autocast)
            found = _try(scene, runner, window, probes * best.together, expected, patience_s, batch=batch)
            if found is not None:
                return replace(best, forward_s=found[0], backward_s=found[1], batch=batch)
        return best
    if voxelwise:
        return best
    while dense.seconds < _HOPE * best.seconds and 2 * dense.batch * dense.graph_bytes <= budget:
        batch = 2 * dense.batch
        found = _try(scene, plain, window, probes, expected, patience_s, batch=batch)
        if found is None or sum(found[:2]) > 0.95 * dense.seconds:
            break
        dense = Cost(found[0], found[1], dense.graph_bytes, "loop", 1, batch)
        best = dense if dense.seconds < 0.95 * best.seconds else best
    return best


def _try(
    scene: Scene,
    runner: Runner,
    window: int,
    probes: list[Cotangent],
    expected: Tensor,
    patience_s: float,
    *,
    batch: int = 1,
) -> tuple[float, float, int] | None:
    """Seconds of a forward pass and of a backward pass per window and cotangent, and bytes that a local pass holds.

    None if this way does not work. It is tried until `patience_s` are over, but at least twice.
    """
    footprint = Footprint()
    forward_s = backward_s = math.inf
    try:
        if runner.strategy == "local":
            runner.forward(scene.window(window)[None], footprint).learn([probe.box for probe in probes])
        within, whole = footprint.within, scene.grid.window
        inputs = scene.window(window, within)[None].expand(batch, -1, -1, -1, -1)
        started = _now(scene)
        for attempt in range(2 if within is None else _ATTEMPTS):
            began = _now(scene)
            if attempt > 1 and began - started > patience_s:
                break
            graph = runner.forward(inputs if within is None else Part(inputs, within, whole), footprint)
            middle = _now(scene)
            parts = list(graph.derivatives([probes] * batch))
            ended = _now(scene)
            found = torch.zeros_like(expected)
            found[(slice(None), *parts[0].box.slices)] = parts[0].values[0]
            tolerance = 1e-10 if expected.dtype == torch.float64 else 2e-3
            if not float((found - expected).abs().max()) <= tolerance * float(expected.abs().max()):
                return None
            if attempt:
                forward_s = min(forward_s, (middle - began) / batch)
                backward_s = min(backward_s, (ended - middle) / len(probes) / batch)
    except (NotImplementedError, RuntimeError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return None
    return forward_s, backward_s, 2 * footprint.held_bytes


def _probe(scene: Scene, site: Site, window: int, logits: Tensor, *, voxelwise: bool) -> Cotangent:
    local, _ = scene.in_window(window, site.readout.source)
    if voxelwise:
        local = Box(local.start, (local.start[0] + 1, local.start[1] + 1, local.start[2] + 1))
    return Cotangent(local, logits.new_ones((logits.shape[1], *local.shape)))


def _seeds(method: AbstractMethod, site: Site) -> int:
    voxels = len(site.voxels)
    if method.seeds_per_lesion is not None:
        voxels = min(method.seeds_per_lesion, voxels)
    return -(-voxels // method.voxels_per_seed)


def _bytes(scene: Scene, site: Site) -> int:
    box: Box = site.box
    return int(_MAPS_PER_LESION * len(scene.padded) * np.prod(box.shape, dtype=np.int64)) * scene.padded.element_size()


def _now(scene: Scene) -> float:
    if scene.padded.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
