"""How many draws of the exact derivative a map with held statistics needs for its correction (multilevel Monte Carlo).

The map's variance is that of N draws with statistics held, V_held / N, plus that of n draws of the difference,
V_difference / n (Giles 2008). n is chosen so that the second adds at most a quarter of the first: the standard error is
then within 12 % of the first term's alone.
"""

import math
from dataclasses import replace

from torch import Tensor

from lesionwise.attribution.engine.cost import Cost
from lesionwise.attribution.engine.draws import AbstractDraws
from lesionwise.attribution.engine.learning import learn
from lesionwise.attribution.engine.moments import Moments
from lesionwise.attribution.engine.sampled import Sampled
from lesionwise.attribution.engine.sampling import accumulate, accumulate_difference
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.workload import Workload

FEWEST_UNITS = 4
"""Independent draws or pairs; of fewer, peaks have no standard error."""

_ADDED_VARIANCE = 0.25
_PILOT_UNITS = 3
_PILOT_FIRST = 1 << 20  # draws far from those that make the map


def full_draws(scene: Scene, site: Site, draws: AbstractDraws, held: Cost, full: Cost) -> int:
    """Draws of the difference, from a few draws of one window in one view; a function of the scan and the seed."""
    alone, scene = replace(site, windows=site.windows[:1]), replace(scene, views_per_draw=1)
    workloads = Workload(full.schedule(1)), Workload(held.schedule(1))
    exact = scene.running(scene.runner.scheduled(workloads[0].schedule))
    fixed = scene.running(scene.runner.scheduled(workloads[1].schedule, {}))
    learn(fixed, [alone], workloads[1])
    main, rest = (Sampled(alone, Moments(draws.antithetic), 0.0) for _ in range(2))
    step = 2 if draws.antithetic else 1
    for n in range(_PILOT_FIRST, _PILOT_FIRST + _PILOT_UNITS * step, step):
        numbers = range(n, n + step)
        accumulate(fixed, [main], draws, draw_numbers=numbers, reduce="mean", workload=workloads[1])
        accumulate_difference((exact, fixed), [rest], draws, draw_numbers=numbers, workloads=workloads)
    ratio = _total(rest.moments.variance_of_mean) / max(_total(main.moments.variance_of_mean), 1e-300)
    units = math.ceil(ratio * (draws.count / step) / _ADDED_VARIANCE)
    return step * max(units, FEWEST_UNITS)


def _total(variance: Tensor | None) -> float:
    return 0.0 if variance is None else float(variance.double().sum())
