"""What each channel, at each distance from the lesion, is worth: occlusion and exact Shapley values (METHOD section 4).

Players are channel x shell: the lesion, its rim, and shells around it in mm. A player that is away is replaced by
a reference image: the scan without the lesion, blurred inside the head ("blur"), or the head's mean ("zero").
"""

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.engine.workload import Workload
from lesionwise.attribution.result import Attribution, trimmed
from lesionwise.attribution.target import AbstractTarget
from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.types import Millimetres

_BLUR_MM = 6.0
_MOST_PLAYERS = 12


@dataclass(frozen=True, eq=False)
class Player:
    """One channel in one shell; `voxels` marks it on the network's grid."""

    channel: int
    shell: str
    voxels: Tensor


@dataclass(frozen=True)
class AbstractGame(AbstractMethod):
    """Worth of players; `edges_mm` are the outer borders of the rim and the shells, `fill` what replaces who is away.

    `spacing_mm` are the voxel sizes of the network's grid; None takes the spec's spacing, or 1 mm.
    """

    edges_mm: tuple[float, ...] = (2.0, 7.0, 15.0)
    fill: Literal["blur", "zero"] = "blur"
    spacing_mm: Millimetres | None = None

    def __post_init__(self) -> None:
        if any(b <= a for a, b in zip((0.0, *self.edges_mm), self.edges_mm, strict=False)):
            raise InputError(f"Shell borders must rise from above 0, found {self.edges_mm}.")

    @property
    def shares_draws(self) -> bool:
        """False: every lesion has players of its own."""
        return False

    def units(self, target: AbstractTarget) -> str:
        """Unit of the map's values."""
        return f"{target.unit} (contribution of the shell, spread evenly over its voxels)"

    @abstractmethod
    def worth(self, value_fn: "ValueFn", count: int) -> list[float]:
        """Worth of each of `count` players; `value_fn` takes the set of players that are present."""

    def explain(self, scene: Scene, work: Work, sites: Sequence[Site]) -> Iterator[tuple[int, Attribution]]:
        """Site number and its map, as they are finished."""
        by_number = {site.number: site for site in sites}
        for group in work.groups:
            for number in group:
                yield number, self._play(scene, work, by_number[number])
                work.done()

    def _play(self, scene: Scene, work: Work, site: Site) -> Attribution:
        began = time.perf_counter()
        spacing = self.spacing_mm or (scene.spec.spacing_mm or 1.0,) * 3
        reference = _reference(scene, work.baseline_fn(site), self.fill, spacing)
        players = _players(scene, site, self.edges_mm, spacing)
        value_fn = ValueFn(scene, site, reference, players, work.workload)
        worth = self.worth(value_fn, len(players))
        everyone = frozenset(range(len(players)))
        whole, nobody = value_fn(everyone), value_fn(frozenset())
        painted = torch.zeros_like(scene.grid.unpad(scene.padded))
        for player, value in zip(players, worth, strict=True):
            painted[player.channel][player.voxels] = value / int(player.voxels.sum())
        found = scene.placement.to_network.adjoint(painted).cpu().numpy()
        box = trimmed(Box.whole(scene.placement.to_network.source_shape), found)
        data = np.ascontiguousarray(found[(slice(None), *box.slices)])
        per_channel = np.zeros(len(painted))
        for player, value in zip(players, worth, strict=True):
            per_channel[player.channel] += value
        details: dict[str, Any] = {
            "players": [
                {
                    "channel": scene.spec.channels[p.channel],
                    "shell": p.shell,
                    "worth": value,
                    "voxels": int(p.voxels.sum()),
                }
                for p, value in zip(players, worth, strict=True)
            ],
            "contributions": per_channel.tolist(),
            "target_without_players": nobody,
            "interaction": (whole - nobody) - sum(worth),
            "evaluations": len(value_fn.known),
            "fill": self.fill,
        }
        return Attribution(
            data=data, box=box, se=None, n_samples=1, converged=None, peak=data.max(axis=(1, 2, 3)),
            trough=data.min(axis=(1, 2, 3)), peak_se=None, trough_se=None, target_mean=whole, sign_flip_fraction=None,
            seconds=time.perf_counter() - began, details=details,
        )  # fmt: skip


@dataclass(frozen=True)
class Occlusion(AbstractGame):
    """y(x) - y(x with one player replaced), for each player."""

    @property
    def name(self) -> str:
        """Name in files."""
        return "occlusion"

    def worth(self, value_fn: "ValueFn", count: int) -> list[float]:
        """Loss when one is away."""
        everyone = frozenset(range(count))
        return [value_fn(everyone) - value_fn(everyone - {player}) for player in range(count)]


@dataclass(frozen=True)
class Shapley(AbstractGame):
    """Exact Shapley values over all coalitions: they add up to y(x) - y(all replaced)."""

    @property
    def name(self) -> str:
        """Name in files."""
        return "shapley"

    def worth(self, value_fn: "ValueFn", count: int) -> list[float]:
        """phi_p = sum over coalitions S without p of |S|! (n - |S| - 1)! / n! * (v(S + p) - v(S))."""
        if count > _MOST_PLAYERS:
            raise InputError(
                f"Exact Shapley values need 2^players predictions: expected at most {_MOST_PLAYERS} players, found {count}."
            )
        worth = [0.0] * count
        for size in range(count):
            weight = 1.0 / (count * math.comb(count - 1, size))
            for coalition in combinations(range(count), size):
                present = frozenset(coalition)
                for player in set(range(count)) - present:
                    worth[player] += weight * (value_fn(present | {player}) - value_fn(present))
        return worth


class ValueFn:
    """Mean of y over Omega with some players present and the others replaced; every coalition is predicted once."""

    def __init__(
        self, scene: Scene, site: Site, reference: Tensor, players: Sequence[Player], workload: Workload
    ) -> None:
        self.known: dict[frozenset[int], float] = {}
        self._scene, self._site, self._players, self._workload = scene, site, players, workload
        self._image, self._reference = scene.grid.unpad(scene.padded), reference

    def __call__(self, present: frozenset[int]) -> float:
        """Mean of y over Omega with the players in `present` as they are and the others replaced."""
        if present not in self.known:
            image = self._image.clone()
            for number, player in enumerate(self._players):
                if number not in present:
                    channel = player.channel
                    image[channel][player.voxels] = self._reference[channel][player.voxels]
            inputs = self._scene.windows_of(image, self._site.windows)
            self.known[present] = self._workload.run(lambda: self._value(inputs), self._scene.grid.window)
        return self.known[present]

    def _value(self, inputs: dict[int, Tensor]) -> float:
        return float(self._scene.values([self._site], inputs, batch=self._workload.schedule.batch)[0].mean())


def _players(scene: Scene, site: Site, edges_mm: tuple[float, ...], spacing_mm: Millimetres) -> list[Player]:
    on_scan = torch.zeros(scene.placement.to_scan.target_shape)
    i, j, k = site.voxels.T
    on_scan[i, j, k] = 1
    soft = scene.placement.to_network.forward(on_scan).numpy()
    lesion = soft > min(0.5, 0.5 * float(soft.max()))
    distance = distance_to_mm(lesion, spacing_mm, reach_mm=max(edges_mm, default=0.0))
    head = scene.placement.head.cpu().numpy()
    shells = {"lesion": lesion}
    for low, high in zip((0.0, *edges_mm), edges_mm, strict=False):
        shells[f"{low:g}-{high:g} mm"] = (distance > low) & (distance <= high) & head
    return [
        Player(channel, name, torch.from_numpy(mask).to(scene.padded.device))
        for channel in range(len(scene.padded))
        for name, mask in shells.items()
        if mask.any()
    ]


def _reference(scene: Scene, without_lesion: Tensor, fill: str, spacing_mm: Millimetres) -> Tensor:
    if fill == "zero":
        return torch.zeros_like(without_lesion)
    head = scene.placement.head.cpu().numpy().astype(np.float32)
    sigma = [_BLUR_MM / size for size in spacing_mm]
    weight = ndimage.gaussian_filter(head, sigma, truncate=3.0)
    blurred = [
        ndimage.gaussian_filter(channel * head, sigma, truncate=3.0) / np.maximum(weight, 1e-6) * (head > 0)
        for channel in without_lesion.cpu().numpy()
    ]
    return torch.from_numpy(np.stack(blurred)).to(without_lesion)
