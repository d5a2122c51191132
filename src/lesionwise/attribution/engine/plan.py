"""What explaining will cost, told before it starts, and how the work is cut so that it fits into memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from lesionwise.attribution.engine.allocation import FEWEST_UNITS, full_draws
from lesionwise.attribution.engine.cost import Cost, dense_cost, local_cost
from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.moments import maps_held
from lesionwise.attribution.engine.options import RunOptions
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.workload import Schedule, Workload
from lesionwise.errors import InputError, OutOfMemoryError
from lesionwise.geometry.box import Box
from lesionwise.norms import can_be_held, is_held
from lesionwise.segmenter import MeanOfViews

_DEFAULT_MEMORY = 4 << 30


@dataclass(frozen=True)
class Plan:
    """How much work there is and how it is cut. `groups` hold instance numbers (from 0) explained together.

    `statistics` is "exact", "fixed" (normalisation statistics held) or "split": `draws` with statistics held, by
    `schedule`, and `full_draws` of the difference to the exact map, by `full`. `views` is the number of the model's views
    that each draw runs, `wording` what they are. `cheaper` says what would be done in less time, or is empty.
    """

    lesions: int
    windows: int
    draws: int
    forward_passes: int
    backward_passes: int
    groups: tuple[tuple[int, ...], ...]
    schedule: Schedule
    seconds: float
    memory_bytes: int
    device: str
    statistics: str = "exact"
    full: Schedule | None = None
    full_draws: int = 0
    views: int = 1
    wording: str = ""
    cheaper: str = ""

    def describe(self) -> str:
        """A line or two for a person who is about to wait."""
        draws = f"{_count(self.draws, 'draw')} each"
        if self.statistics == "fixed":
            draws += " with normalisation statistics held"
        if self.statistics == "split":
            draws += f" with normalisation statistics held and {self.full_draws} with them following the noise"
        told = (
            f"{_count(self.lesions, 'lesion')} in {_count(self.windows, 'window')}, {draws}: "
            f"{self.forward_passes:,} forward and {self.backward_passes:,} backward passes on {self.device}, "
            f"about {_duration(self.seconds)}, {self.memory_bytes / 2**30:.1f} GiB of memory"
        )
        if self.wording:
            told += f" (each draw runs {self.wording} = {_count(self.views, 'network')} per window)"
        return told + (f"; {self.cheaper}" if self.cheaper else "")

    def __str__(self) -> str:
        return self.describe()


@dataclass(frozen=True)
class _Ways:
    """How draws are taken: `main` all of them, and with `full` so many of the difference to the exact derivative."""

    statistics: str
    main: Cost
    full: Cost | None = None
    full_draws: int = 0


def plan_sites(scene: Scene, sites: Sequence[Site], method: AbstractMethod, options: RunOptions | None = None) -> Plan:
    """The plan for sites that are already located.

    Raises OutOfMemoryError if even one window at a time does not fit, InputError for statistics that the method or the
    network cannot hold.
    """
    options = options or RunOptions()
    budget = options.memory_bytes or _DEFAULT_MEMORY
    _check_statistics(scene, method, options)
    reached = [site for site in sites if site.windows]
    ways = _Ways("exact" if options.statistics in ("auto", "split") else options.statistics, Cost())
    if reached:
        typical = reached[usual([len(site.voxels) for site in reached])]
        own = maps_held(method.draws_per_lesion) * _bytes(scene, typical)
        chosen = partial(_ways, scene, typical, method, options, budget - own)
        ways = Workload().run(chosen, scene.grid.window)
    return _plan(scene, sites, method, ways, budget)


def _check_statistics(scene: Scene, method: AbstractMethod, options: RunOptions) -> None:
    wanted = options.statistics
    if wanted not in ("auto", *method.statistics):
        offered = " or ".join(("auto", *method.statistics))
        raise InputError(f"The method {method.name} offers --statistics {offered}, found {wanted}.")
    if wanted in ("fixed", "split") and not can_be_held(scene.runner.network):
        raise InputError(
            f"The normalisation of a TorchScript network cannot be held: expected --statistics exact, found {wanted}."
        )


def _ways(scene: Scene, site: Site, method: AbstractMethod, options: RunOptions, budget: int) -> _Ways:
    """Which of the ways there are is taken, by counted work and by what was asked for."""
    voxelwise, thorough = method.seeds_per_lesion != 1, method.draws_per_lesion > 2
    wanted, network = options.statistics, scene.runner.network
    dense, expected = dense_cost(scene, site, budget=budget, voxelwise=voxelwise, thorough=thorough)
    mixing = is_held(network)
    by_itself = voxelwise or "split" in method.statistics  # paths add up only for the network as it is
    held = "fixed" in method.statistics and (
        wanted in ("fixed", "split") or (wanted == "auto" and mixing and by_itself)
    )
    local = None
    if thorough or wanted in ("fixed", "split"):
        own = partial(local_cost, scene, site, dense, expected, budget=budget, voxelwise=voxelwise)
        local = own(held=held and mixing)
    if wanted == "fixed":
        _must_fit(dense, local, budget)
        return _Ways("fixed", local or replace(dense, held=True, recompute=False))
    if not (held and mixing):
        _must_fit(dense, local, budget)
        return _Ways("exact", local or dense)
    if local is not None and voxelwise and wanted == "auto":
        return _Ways("fixed", local)
    if local is not None and "split" in method.statistics:
        _must_fit(dense, None, budget)
        draws = method.draws(scene)
        n = 0 if draws is None or not _pays(method, wanted) else full_draws(scene, site, draws, local, dense)
        if wanted == "split" or 0 < 2 * n < method.draws_per_lesion:
            return _Ways("split", local, dense, n)
    if wanted == "split":
        raise InputError("Held statistics do not make this network local: expected --statistics exact, found split.")
    _must_fit(dense, None, budget)
    return _Ways("exact", dense)


def _pays(method: AbstractMethod, wanted: str) -> bool:
    """False for so few draws that exact ones cost no more."""
    return wanted == "split" or method.draws_per_lesion > 2 * FEWEST_UNITS


def _must_fit(dense: Cost, local: Cost | None, budget: int) -> None:
    """Raises OutOfMemoryError, with what could be asked for, if whole windows are needed and do not fit."""
    if local is not None or dense.graph_bytes <= budget:
        return
    offer = "--statistics fixed, which needs far less, or " if dense.recompute else ""
    raise OutOfMemoryError(
        f"One window needs {dense.graph_bytes / 2**30:.1f} GiB, more than the {budget / 2**30:.1f} GiB allowed, though "
        f"blocks are computed again instead of kept and views run one at a time: expected {offer}more memory."
    )


def _plan(scene: Scene, sites: Sequence[Site], method: AbstractMethod, ways: _Ways, budget: int) -> Plan:
    main, full = ways.main, ways.full
    linear = scene.target.is_linear(scene.spec)
    needed = max(main.peak_bytes(main.batch), 0 if full is None else full.peak_bytes(full.batch))
    maps = maps_held(method.draws_per_lesion) + (0 if full is None else maps_held(ways.full_draws))
    groups = grouped(sites, scene, budget=budget - needed, maps=maps, shared=method.shares_draws)
    by_number = {site.number: site for site in sites}
    views = scene.views_per_draw or scene.runner.views
    learning, forwards, backwards = 0, 0, 0
    for group in groups:
        members = [by_number[n] for n in group]
        met = len({w for site in members for w in site.windows})
        learning += met * scene.runner.views
        forwards += met * views
        backwards += views * sum(len(site.windows) * _seeds(method, site) for site in members)
    state = max((maps * sum(_bytes(scene, by_number[n]) for n in group) for group in groups), default=0)
    each = main.pass_bytes or main.graph_bytes
    kept = int(max(1, min(8 * (main.batch if main.pass_bytes else 1), (budget - state) // max(each, 1))))
    again = 1 if linear or kept >= 2 * main.batch else 2
    draws, seconds, of_full = method.draws_per_lesion, 0.0, 0.0
    seconds += draws * (again * forwards * main.forward_s + backwards * main.backward_s)
    if full is not None:
        of_full = forwards * full.forward_s * again + backwards * full.backward_s
        seconds += ways.full_draws * (of_full + again * forwards * main.forward_s + backwards * main.backward_s)
    learning_s = learning * (full or main).forward_s
    runs = draws + 2 * ways.full_draws
    peak = main.peak_bytes(main.batch if linear and method.seeds_per_lesion == 1 else kept)
    return Plan(
        lesions=len(sites),
        windows=len({w for site in sites for w in site.windows}),
        draws=draws,
        forward_passes=learning + runs * again * forwards,
        backward_passes=runs * backwards,
        groups=groups,
        schedule=main.schedule(kept),
        seconds=learning_s + seconds,
        memory_bytes=int(state + max(peak, 0 if full is None else full.peak_bytes(full.batch))),
        device=str(scene.padded.device),
        statistics=ways.statistics,
        full=None if full is None else full.schedule(1),
        full_draws=ways.full_draws,
        views=views,
        wording=_wording(scene, views),
        cheaper=_cheaper(ways, scene, views, seconds, learning_s, draws),
    )


def _wording(scene: Scene, views: int) -> str:
    network = scene.runner.network
    if not isinstance(network, MeanOfViews) or network.count == 1:
        return ""
    return network.wording if views == network.count else f"{views} of {network.wording}, drawn at random,"


def _cheaper(ways: _Ways, scene: Scene, views: int, seconds: float, learning_s: float, draws: int) -> str:
    """What would take less time, in seconds, with what it would change; empty below a minute."""
    offers = []
    if views > 1 and scene.target.is_linear(scene.spec):
        offers.append(f"--views spread would take about {_duration(seconds / views + learning_s)}")
    if ways.full is not None and seconds:
        share = draws * ways.main.seconds / (draws * ways.main.seconds + ways.full_draws * ways.full.seconds)
        offers.append(f"--statistics fixed about {_duration(seconds * share + learning_s)}")
    return ", ".join(offers) if seconds > 60 else ""


def grouped(
    sites: Sequence[Site], scene: Scene, *, budget: int, maps: int, shared: bool = True
) -> tuple[tuple[int, ...], ...]:
    """Site numbers in groups whose maps (so many per site) fit into `budget` bytes, lesions of the same windows together."""
    if not shared:
        return tuple((site.number,) for site in sites)
    groups: list[list[int]] = []
    used = math.inf
    for site in sorted(sites, key=lambda site: (site.windows, site.number)):
        size = maps * _bytes(scene, site)
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


def _seeds(method: AbstractMethod, site: Site) -> int:
    voxels = len(site.voxels)
    if method.seeds_per_lesion is not None:
        voxels = min(method.seeds_per_lesion, voxels)
    return -(-voxels // method.voxels_per_seed)


def _bytes(scene: Scene, site: Site) -> int:
    """Of one map."""
    box: Box = site.box
    return len(scene.padded) * math.prod(box.shape) * scene.padded.element_size()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
