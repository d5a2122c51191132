"""At which inputs a derivative is taken: the scan itself, with noise, or on the way from a baseline."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lesionwise.attribution.noise import normal
from lesionwise.attribution.scene import Scene
from lesionwise.volume import Box


class AbstractDraws(ABC):
    """A sequence of inputs x_n. The map is the mean over n of `factor(n) * dy/dx at x_n`."""

    count: int
    antithetic: bool = False
    is_random: bool = False
    are_contributions: bool = False

    @abstractmethod
    def window(self, scene: Scene, draw: int, index: int) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` in draw `draw`."""

    def factor(self, scene: Scene, draw: int, box: Box) -> Float[Tensor, "channels i j k"] | None:
        """What the derivative is multiplied with on a box of the volume; None for 1."""
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

    def window(self, scene: Scene, draw: int, index: int) -> Float[Tensor, "channels i j k"]:
        """The input of window `index`."""
        return scene.window(index)

    def factor(self, scene: Scene, draw: int, box: Box) -> Float[Tensor, "channels i j k"] | None:
        """The input."""
        return scene.padded[(slice(None), *box.shifted(scene.grid.offset).slices)] if self.times_input else None


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

    def window(self, scene: Scene, draw: int, index: int) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` in draw `draw`."""
        clean = scene.window(index)
        if not any(self.sigma):
            return clean
        noisy = clean.clone()
        box = Box.whole(scene.grid.shape)
        local, own = scene.in_window(index, box)
        noise = normal(
            own,
            scene.grid.shape,
            channels=len(clean),
            seed=scene.seed,
            draw=draw // 2 if self.antithetic else draw,
            dtype=clean.dtype,
            device=clean.device,
        )
        sign = -1.0 if self.antithetic and draw % 2 else 1.0
        noise *= torch.tensor([sign * s for s in self.sigma], dtype=clean.dtype, device=clean.device)[
            :, None, None, None
        ]
        if self.head is not None:
            noise *= self.head[own.slices].to(clean)
        noisy[(slice(None), *local.slices)] += noise
        return noisy


@dataclass(frozen=True, eq=False)
class Path(AbstractDraws):
    """Points x' + t_n (x - x') on the straight way from a baseline (channels, i, j, k), with quadrature weights.

    The derivative is multiplied with weight_n * count * (x - x'), so that the mean over n is the integral.
    """

    baseline: Float[Tensor, "channels i j k"]
    positions: tuple[float, ...]
    weights: tuple[float, ...]
    count: int
    are_contributions: bool = True

    def window(self, scene: Scene, draw: int, index: int) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` at point `draw`."""
        clean = scene.window(index)
        start = scene.grid.pad(self.baseline)[(slice(None), *scene.grid.boxes[index].slices)]
        return start + self.positions[draw] * (clean - start)

    def factor(self, scene: Scene, draw: int, box: Box) -> Float[Tensor, "channels i j k"] | None:
        """weight_n * count * (x - x')."""
        x = scene.padded[(slice(None), *box.shifted(scene.grid.offset).slices)]
        return (x - self.baseline[(slice(None), *box.slices)]) * (self.weights[draw] * self.count)


@dataclass(frozen=True, eq=False)
class Reference(AbstractDraws):
    """Expected Gradients: x'_n + t_n (x - x'_n) with baselines x'_n = x' + noise where x' differs from x.

    The noise stands for the spread of healthy tissue; t_n is stratified over the draws.
    """

    baseline: Float[Tensor, "channels i j k"]
    sigma: tuple[float, ...]
    positions: tuple[float, ...]
    count: int
    is_random: bool = True
    are_contributions: bool = True

    def window(self, scene: Scene, draw: int, index: int) -> Float[Tensor, "channels i j k"]:
        """The input of window `index` in draw `draw`."""
        moved = scene.window(index).clone()
        local, own = scene.in_window(index, Box.whole(scene.grid.shape))
        moved[(slice(None), *local.slices)] -= (1.0 - self.positions[draw]) * self._difference(scene, draw, own)
        return moved

    def factor(self, scene: Scene, draw: int, box: Box) -> Float[Tensor, "channels i j k"] | None:
        """x - x'_n."""
        return self._difference(scene, draw, box)

    def _difference(self, scene: Scene, draw: int, box: Box) -> Tensor:
        x = scene.padded[(slice(None), *box.shifted(scene.grid.offset).slices)]
        difference = x - self.baseline[(slice(None), *box.slices)]
        noise = normal(
            box,
            scene.grid.shape,
            channels=len(x),
            seed=scene.seed,
            draw=draw,
            dtype=x.dtype,
            device=x.device,
        )
        noise *= torch.tensor(self.sigma, dtype=x.dtype, device=x.device)[:, None, None, None]
        return difference - noise * (difference != 0).any(dim=0)
