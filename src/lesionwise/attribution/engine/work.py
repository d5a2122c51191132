"""How the work is done: in which groups, how much at once, who hears about progress, what baselines are used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lesionwise.attribution.engine.difference import Difference
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.workload import Workload
from lesionwise.types import PassFn

_PARTS = 100  # of a step, that progress is told in


@dataclass(frozen=True, eq=False)
class Correction:
    """What makes a map with held statistics an unbiased estimate of the exact one: `draws` of the difference to it.

    `scene` runs the network with statistics that follow the input.
    """

    scene: Scene
    workload: Workload
    draws: int


@dataclass(eq=False)
class Work:
    """`groups` hold site numbers that are explained together. `difference_fn` says what a site's scan
    differs in from the scan without its lesion. `steps` counts finished steps of `total`."""

    groups: Sequence[Sequence[int]]
    workload: Workload
    difference_fn: Callable[[Site], Difference]
    total: int
    progress_fn: PassFn | None = None
    correction: Correction | None = None
    steps: float = 0.0

    def done(self, steps: float | int = 1) -> None:
        """Counts finished steps and says so."""
        self.steps = min(self.steps + steps, self.total)
        if self.progress_fn is not None:
            self.progress_fn(round(_PARTS * self.steps), _PARTS * self.total)

    def under_way(self, steps: float | int) -> None:
        """Says how far unfinished steps are, without counting them: they may have to be taken again with less at once."""
        if self.progress_fn is not None:
            self.progress_fn(min(round(_PARTS * (self.steps + steps)), _PARTS * self.total - 1), _PARTS * self.total)
