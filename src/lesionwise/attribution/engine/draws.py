"""At which inputs a derivative is taken: the scan itself, with noise, or on the way from a baseline."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lesionwise.attribution.engine.difference import Change, Difference
from lesionwise.attribution.engine.noise import normal, uniform
from lesionwise.attribution.engine.scene import Scene
from lesionwise.geometry.box import Box

_VIEWS_STREAM = 1 << 40  # of random numbers, far from those of other uses


class AbstractDraws(ABC):
    """A sequence of inputs x_n. The map is the mean over n of `factor(n) * dy/dx at x_n`."""

    count: int
    antithetic: bool = False
    is_random: bool = False
    are_contributions: bool = False

    def views(self, scene: Scene, draw: int) -> tuple[int, ...]:
        """Which of the model's views this draw runs: all, or as many as the scene says, drawn at random.

        The two draws of an antithetic pair run the same ones.
        """
        count, wanted = scene.runner.views, scene.views_per_draw
        if wanted is None or wanted >= count:
            return tuple(range(count))
        unit = draw // 2 if self.antithetic else draw
        order = np.argsort(uniform(count, seed=scene.seed, stream=_VIEWS_STREAM + unit), kind="stable")
        return tuple(sorted(int(view) for view in order[:wanted]))

    @abstractmethod
    def part(self, scene: Scene, draw: int, index: int, within: Box) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` in draw `draw`, on a box of the window."""

    def parts(
        self, scene: Scene, draws: Sequence[int], index: int, within: Box
    ) -> Float[Tensor, "draws channels i j k"]:
        """The same for several draws."""
        return torch.stack([self.part(scene, draw, index, within) for draw in draws])

    def window(self, scene: Scene, draw: int, index: int) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` in draw `draw`."""
        return self.part(scene, draw, index, Box.whole(scene.grid.window))

    def factor(self, scene: Scene, draw: int, box: Box) -> Float[Tensor, "channels i j k"] | None:
        """What the derivative is multiplied with, once it is on the scan's own voxels (`box` of them); None for 1."""
        return None


@dataclass(frozen=True, eq=False)
class AsIs(AbstractDraws):
    """The scan itself, once; with `times_input` the derivative is multiplied with the input."""

    times_input: bool = False
    count: int = 1

    @property
    def are_contributions(self) -> bool:  # type: ignore[override]
        """True if the values are contributions in units of the target."""
        return self.times_input

    def part(self, scene: Scene, draw: int, index: int, within: Box) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` on a box of it."""
        return scene.window(index, within)

    def factor(self, scene: Scene, draw: int, box: Box) -> Float[Tensor, "channels i j k"] | None:
        """The scan in the head, where 0 is its mean."""
        if not self.times_input:
            return None
        scan, head = scene.placement.scan, scene.placement.scan_head
        return scan[(slice(None), *box.slices)] * head[box.slices].to(scan)


@dataclass(frozen=True, eq=False)
class Noisy(AbstractDraws):
    """x + e_n with e_n ~ N(0, sigma_c^2) inside `head` (the volume's grid; None for everywhere).

    With `antithetic`, draw 2m + 1 is x - e_2m.
    """

    sigma: tuple[float, ...]
    count: int
    head: Bool[Tensor, "i j k"] | None
    antithetic: bool = False
    is_random: bool = True

    def part(self, scene: Scene, draw: int, index: int, within: Box) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` in draw `draw`, on a box of the window."""
        return self.parts(scene, [draw], index, within)[0]

    def parts(
        self, scene: Scene, draws: Sequence[int], index: int, within: Box
    ) -> Float[Tensor, "draws channels i j k"]:
        """The same for several draws; the two of a pair share their noise."""
        clean = scene.window(index, within)
        noisy = clean.expand(len(draws), -1, -1, -1, -1).clone()
        local, own = scene.in_window(index, Box.whole(scene.grid.shape), within)
        if not any(self.sigma) or own.is_empty:
            return noisy
        factors = clean.new_tensor(self.sigma)[:, None, None, None]
        if self.head is not None:
            factors = factors * self.head[own.slices].to(clean)
        by_unit: dict[int, Tensor] = {}
        for item, draw in zip(noisy, draws, strict=True):
            unit = draw // 2 if self.antithetic else draw
            if unit not in by_unit:
                by_unit[unit] = factors * normal(
                    own, scene.grid.shape, channels=len(clean), seed=scene.seed, draw=unit, dtype=clean.dtype,
                    device=clean.device,
                )  # fmt: skip
            item[(slice(None), *local.slices)].add_(by_unit[unit], alpha=-1 if self.antithetic and draw % 2 else 1)
        return noisy


@dataclass(frozen=True, eq=False)
class Path(AbstractDraws):
    """Points x' + t_n (x - x') on the straight way from a baseline, with quadrature weights.

    The derivative is multiplied with weight_n * count * (x - x'), so that the mean over n is the integral.
    """

    difference: Difference
    positions: tuple[float, ...]
    weights: tuple[float, ...]
    count: int
    are_contributions: bool = True
    _known: dict[str, Change] = field(default_factory=dict, repr=False)

    def part(self, scene: Scene, draw: int, index: int, within: Box) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` at point `draw`, on a box of the window."""
        if "change" not in self._known:
            self._known["change"] = self.difference.pushed(scene)
        return self._known["change"].taken_from(scene, index, within, share=1.0 - self.positions[draw])

    def factor(self, scene: Scene, draw: int, box: Box) -> Float[Tensor, "channels i j k"] | None:
        """weight_n * count * (x - x')."""
        return self.difference.on(box) * (self.weights[draw] * self.count)


@dataclass(frozen=True, eq=False)
class Reference(AbstractDraws):
    """Expected Gradients: x'_n + t_n (x - x'_n) with baselines x'_n = x' + noise where x' differs from x.

    The noise stands for the spread of healthy tissue; t_n is stratified over the draws.
    """

    difference: Difference
    sigma: tuple[float, ...]
    positions: tuple[float, ...]
    count: int
    is_random: bool = True
    are_contributions: bool = True
    _known: dict[int, tuple[Difference, Change]] = field(default_factory=dict, repr=False)

    def part(self, scene: Scene, draw: int, index: int, within: Box) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` in draw `draw`, on a box of the window."""
        return self._drawn(scene, draw)[1].taken_from(scene, index, within, share=1.0 - self.positions[draw])

    def factor(self, scene: Scene, draw: int, box: Box) -> Float[Tensor, "channels i j k"] | None:
        """x - x'_n."""
        return self._drawn(scene, draw)[0].on(box)

    def mean_difference(self, scene: Scene) -> Difference:
        """x minus the mean of the baselines that were drawn."""
        drawn = [self._drawn(scene, draw)[0].values for draw in range(self.count)]
        return Difference(torch.stack(drawn).mean(dim=0), self.difference.box)

    def _drawn(self, scene: Scene, draw: int) -> tuple[Difference, Change]:
        if draw not in self._known:
            values, box = self.difference.values, self.difference.box
            i, j, k = scene.placement.scan.shape[1:]
            noise = normal(
                box, (int(i), int(j), int(k)), channels=len(values), seed=scene.seed, draw=draw, dtype=values.dtype,
                device=values.device,
            )  # fmt: skip
            noise *= torch.tensor(self.sigma, dtype=values.dtype)[:, None, None, None]
            own = Difference(values - noise * (values != 0).any(dim=0), box)
            self._known[draw] = (own, own.pushed(scene))
        return self._known[draw]
