"""One scan before one network: a session plans the maps of all its instances, by any method, and streams them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.attribution.engine.difference import Difference, given_difference, lesion_difference
from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.options import RunOptions
from lesionwise.attribution.engine.plan import Plan, plan_sites
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site, VoxelSet, centred, locate
from lesionwise.attribution.engine.work import Correction, Work
from lesionwise.attribution.engine.workload import Pass, Workload
from lesionwise.attribution.result import Attribution
from lesionwise.errors import InputError
from lesionwise.norms import Statistics
from lesionwise.segmenter import Placement, Spec
from lesionwise.types import MaskArray, PassFn


@dataclass(frozen=True, eq=False)
class Session:
    """The instances (`sites`) of one scan, to be explained by one method. Use `open`."""

    scene: Scene
    sites: tuple[Site, ...]
    method: AbstractMethod
    options: RunOptions

    @classmethod
    @contextmanager
    def open(
        cls,
        network: nn.Module,
        spec: Spec,
        placement: Placement,
        voxel_sets: Sequence[VoxelSet],
        method: AbstractMethod,
        options: RunOptions | None = None,
    ) -> "Iterator[Session]":
        """A session that holds the network still inside the block; it is as it was found after it, also after an error.

        `voxel_sets` are voxels of the scan's grid. Raises InputError for voxel sets that are empty or outside the scan,
        and for options that the method or the network cannot follow.
        """
        options = options or RunOptions()
        with Scene.open(network, spec, placement, options) as scene:
            sites = locate(placement, scene.grid, voxel_sets)
            if options.lesion_window:
                grid, sites = centred(placement, scene.grid, sites)
                scene = scene.over(grid)
            yield cls(scene, tuple(sites), method, options)

    def plan(self) -> Plan:
        """What the maps will cost, and how they will be taken.

        Raises OutOfMemoryError if even one window at a time does not fit into the options' memory.
        """
        return plan_sites(self.scene, self.sites, self.method, self.options)

    def stream(
        self,
        plan: Plan | None = None,
        *,
        baselines: Sequence[Float[Tensor, "channels i j k"]] | None = None,
        healthy: MaskArray | None = None,
        regions: Sequence[Sequence[VoxelSet]] | None = None,
        progress_fn: PassFn | None = None,
    ) -> Iterator[tuple[int, Attribution]]:
        """Number of the voxel set and its map, as lesions finish.

        A `plan` is kept to; without one it is made first. `baselines` are lesion-free scans (channels, i, j, k) on
        the scan's grid in the units fed to the network (`Placement.scan`), one per voxel set, for the methods that need
        one; by default the lesion is inpainted, from `healthy` tissue (scan's grid) if given. `regions` are, per
        voxel set, voxels of the scan whose sums every draw is asked for (`Attribution.region_sums`).
        """
        if baselines is not None and len(baselines) != len(self.sites):
            raise InputError(f"Expected one baseline per voxel set, found {len(baselines)} for {len(self.sites)}.")
        chosen, scene, placement = plan or self.plan(), self.scene, self.scene.placement
        sites: Sequence[Site] = self.sites
        if regions is not None:
            sites = [replace(site, regions=tuple(regions[site.number])) for site in sites]

        def difference(site: Site) -> Difference:
            if baselines is not None:
                return given_difference(placement, baselines[site.number])
            return lesion_difference(placement, self.sites, site, healthy=healthy, seed=scene.seed)

        held: dict[Pass, Statistics] | None = {} if chosen.statistics in ("split", "fixed") else None
        correction = None
        if chosen.full is not None:
            full = scene.running(scene.runner.scheduled(chosen.full))
            correction = Correction(full, Workload(chosen.full), chosen.full_draws)
        work = Work(
            groups=chosen.groups,
            workload=Workload(chosen.schedule),
            difference_fn=difference,
            total=len(chosen.groups) * (self.method.draws_per_lesion + chosen.full_draws),
            progress_fn=progress_fn,
            correction=correction,
        )
        alone = {site.number for site in self.sites if site.is_alone_in(scene.grid)}
        running = scene.running(scene.runner.scheduled(chosen.schedule, held))
        facts = self._facts(chosen)
        for number, found in self.method.explain(running, work, sites):
            named = found.with_details(facts)
            yield number, named.approximated("lesion-window") if number in alone else named

    def _facts(self, plan: Plan) -> dict[str, Any]:
        """What every sidecar says of how the network was run."""
        facts: dict[str, Any] = {"statistics": plan.statistics}
        if plan.statistics == "split":
            facts["full_draws"] = plan.full_draws
        if self.scene.runner.views > 1:
            facts["views_per_draw"] = self.scene.views_per_draw
            facts["views"] = self.scene.runner.views
        return facts


def attribute(
    network: nn.Module,
    spec: Spec,
    placement: Placement,
    voxel_sets: Sequence[VoxelSet],
    *,
    method: AbstractMethod,
    plan: Plan | None = None,
    baselines: Sequence[Float[Tensor, "channels i j k"]] | None = None,
    healthy: MaskArray | None = None,
    progress_fn: PassFn | None = None,
    **options: Any,
) -> list[Attribution]:
    """One map per voxel set (voxels of the scan's grid), in their order.

    `options` are the fields of `RunOptions`; for the other arguments see `Session.stream`.
    """
    given: dict[str, Any] = {"baselines": baselines, "healthy": healthy, "progress_fn": progress_fn}
    found = dict(stream(network, spec, placement, voxel_sets, method=method, plan=plan, **given, **options))
    return [found[number] for number in range(len(voxel_sets))]


def stream(
    network: nn.Module,
    spec: Spec,
    placement: Placement,
    voxel_sets: Sequence[VoxelSet],
    *,
    method: AbstractMethod,
    plan: Plan | None = None,
    baselines: Sequence[Float[Tensor, "channels i j k"]] | None = None,
    healthy: MaskArray | None = None,
    regions: Sequence[Sequence[VoxelSet]] | None = None,
    progress_fn: PassFn | None = None,
    **options: Any,
) -> Iterator[tuple[int, Attribution]]:
    """Number of the voxel set and its map, as lesions finish; the network is held still until the last.

    `options` are the fields of `RunOptions`; for the other arguments see `Session.stream`.
    """
    with Session.open(network, spec, placement, voxel_sets, method, RunOptions(**options)) as session:
        yield from session.stream(plan, baselines=baselines, healthy=healthy, regions=regions, progress_fn=progress_fn)


def plan_attribution(
    network: nn.Module,
    spec: Spec,
    placement: Placement,
    voxel_sets: Sequence[VoxelSet],
    *,
    method: AbstractMethod,
    **options: Any,
) -> Plan:
    """Measures one window and says what the instances will cost; `options` are the fields of `RunOptions`.

    Raises OutOfMemoryError if even one window at a time does not fit into the options' memory.
    """
    with Session.open(network, spec, placement, voxel_sets, method, RunOptions(**options)) as session:
        return session.plan()
