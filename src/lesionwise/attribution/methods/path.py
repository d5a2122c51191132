"""Contributions along the way from a lesion-free baseline: Integrated and Expected Gradients (METHOD section 4)."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lesionwise.attribution.engine.difference import Difference, without
from lesionwise.attribution.engine.draws import AbstractDraws, Path, Reference
from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.noise import spread, uniform
from lesionwise.attribution.engine.sampled_maps import sampled_maps
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.result import Attribution, Removal
from lesionwise.attribution.target import AbstractTarget
from lesionwise.errors import InputError


class AbstractContributions(AbstractMethod):
    """What adds up to the difference between the scan and the scan without this lesion."""

    @property
    def shares_draws(self) -> bool:
        """False: every lesion has baselines of its own."""
        return False

    @property
    def statistics(self) -> tuple[str, ...]:
        """Exact, or held."""
        return ("exact", "fixed")

    def units(self, target: AbstractTarget) -> str:
        """Unit of the map's values."""
        return target.unit


@dataclass(frozen=True)
class IntegratedGradients(AbstractContributions):
    """Integrated Gradients (Sundararajan 2017) from the scan without this lesion, by Gauss-Legendre quadrature.

    Contributions add up to y(x) - y(x'), y being the mean target over Omega; what is missing is the completeness error.
    """

    n_steps: int = 32

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise InputError(f"Integrated Gradients needs at least one step, found {self.n_steps}.")

    @property
    def name(self) -> str:
        """Name in files."""
        return "ig"

    @property
    def draws_per_lesion(self) -> int:
        """Points on the way."""
        return self.n_steps

    def explain(self, scene: Scene, work: Work, sites: Sequence[Site]) -> Iterator[tuple[int, Attribution]]:
        """Site number and its map, as they are finished."""
        nodes, weights = np.polynomial.legendre.leggauss(self.n_steps)
        positions, shares = (nodes + 1) / 2, weights / 2
        for site in _in_groups(work, sites):
            difference = work.difference_fn(site)
            draws = Path(difference, tuple(positions.tolist()), tuple(shares.tolist()), self.n_steps)
            number, found = _with_contributions(scene, work, site, draws, difference)
            yield number, replace(found, removal=_removal(difference))


@dataclass(frozen=True)
class ExpectedGradients(AbstractContributions):
    """Expected Gradients (Erion 2021): baselines are the lesion-free scan with noise where the lesion was, `noise` being
    a fraction of the channel's spread; one position on the way per draw, stratified."""

    n_samples: int = 50
    noise: float = 0.05

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise InputError(f"Expected Gradients needs at least one sample, found {self.n_samples}.")

    @property
    def name(self) -> str:
        """Name in files."""
        return "eg"

    @property
    def draws_per_lesion(self) -> int:
        """Baselines drawn."""
        return self.n_samples

    def explain(self, scene: Scene, work: Work, sites: Sequence[Site]) -> Iterator[tuple[int, Attribution]]:
        """Site number and its map, as they are finished."""
        n = self.n_samples
        strata = np.argsort(uniform(n, seed=scene.seed, stream=1))
        positions = (strata + uniform(n, seed=scene.seed, stream=2)) / n
        sigma = spread(scene.placement.input[0], scene.placement.head, noise=self.noise)
        for site in _in_groups(work, sites):
            difference = work.difference_fn(site)
            draws = Reference(difference, tuple(sigma.tolist()), tuple(positions.tolist()), n)
            number, found = _with_contributions(scene, work, site, draws, difference)
            yield number, replace(found, removal=_removal(draws.mean_difference(scene)))


def shares_of(contributions: np.ndarray, difference: float) -> list[float] | None:
    """Share of each channel in y(x) - y(x'), or None where a share would mean nothing.

    It is given only where all contributions have the sign of the difference and the difference exceeds ten times the
    completeness error.
    """
    error = abs(float(contributions.sum()) - difference)
    if not abs(difference) > 10 * error or np.any(contributions * np.sign(difference) < 0):
        return None
    return (contributions / contributions.sum()).tolist()


def _with_contributions(
    scene: Scene, work: Work, site: Site, draws: AbstractDraws, difference: Difference
) -> tuple[int, Attribution]:
    began = time.perf_counter()
    inputs = without(scene, site.windows, [difference.pushed(scene)])
    lesion_free = float(scene.values([site], inputs)[0].mean())
    alone = replace(work, groups=((site.number,),))
    ((number, found),) = list(sampled_maps(scene, alone, [site], draws))
    work.steps = alone.steps
    contributions = found.data.sum(axis=(1, 2, 3), dtype=np.float64)
    change = found.target_mean - lesion_free
    facts: dict[str, Any] = {
        "contributions": contributions.tolist(),
        "shares": shares_of(contributions, change),
        "target_without_lesion": lesion_free,
        "completeness_error": abs(float(contributions.sum()) - change),
        "baseline": "lesion inpainted",
    }
    return number, replace(found, details={**found.details, **facts}, seconds=time.perf_counter() - began)


def _removal(difference: Difference) -> Removal:
    return Removal(difference.values.numpy(), difference.box)


def _in_groups(work: Work, sites: Sequence[Site]) -> Iterator[Site]:
    by_number = {site.number: site for site in sites}
    for group in work.groups:
        for number in group:
            yield by_number[number]
