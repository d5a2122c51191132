"""What each channel, at each distance from the lesion, is worth: occlusion and exact Shapley values (METHOD section 4).

Players are channel x shell of the scan's own grid: the lesion, its rim, and shells around it, in mm from its border. A
player that is away is replaced by a reference image: the scan without the lesion, blurred inside the head ("blur"), or the
head's mean ("zero"). What replaces it is made on the scan and then laid on the network's grid.
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

from lesionwise.attribution.engine.difference import Change, Difference, without
from lesionwise.attribution.engine.method import AbstractMethod
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.engine.site import Site
from lesionwise.attribution.engine.work import Work
from lesionwise.attribution.engine.workload import Workload
from lesionwise.attribution.result import Attribution, Removal, trimmed
from lesionwise.attribution.target import AbstractTarget
from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.geometry.distance import distance_to_mm
from lesionwise.types import MaskArray, Millimetres

_BLUR_MM = 6.0
_BLUR_SDS = 3.0
_MOST_PLAYERS = 12


@dataclass(frozen=True, eq=False)
class Player:
    """One channel in one shell (`mask` on `box` of the scan's grid), and what its absence takes from the network's input."""

    channel: int
    shell: str
    mask: MaskArray
    box: Box
    difference: Difference
    change: Change

    @property
    def voxels(self) -> int:
        """How many there are."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class AbstractGame(AbstractMethod):
    """Worth of players; `edges_mm` are the outer borders of the rim and the shells, `fill` what replaces who is away."""

    edges_mm: tuple[float, ...] = (2.0, 7.0, 15.0)
    fill: Literal["blur", "zero"] = "blur"

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
        players = _players(scene, site, work.difference_fn(site), edges_mm=self.edges_mm, fill=self.fill)
        value_fn = ValueFn(scene, site, players, work.workload)
        worth = self.worth(value_fn, len(players))
        everyone = frozenset(range(len(players)))
        whole, nobody = value_fn(everyone), value_fn(frozenset())
        around = players[0].box if players else Box.around(site.voxels)
        painted = np.zeros((len(scene.padded), *around.shape), dtype=scene.placement.scan.numpy().dtype)
        for player, value in zip(players, worth, strict=True):
            painted[player.channel][player.mask] = value / player.voxels
        box = trimmed(around, painted)
        data = np.ascontiguousarray(painted[(slice(None), *box.relative_to(around).slices)])
        per_channel = np.zeros(len(data))
        for player, value in zip(players, worth, strict=True):
            per_channel[player.channel] += value
        details: dict[str, Any] = {
            "players": [
                {
                    "channel": scene.spec.channels[p.channel],
                    "shell": p.shell,
                    "worth": value,
                    "voxels": p.voxels,
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
            seconds=time.perf_counter() - began, details=details, removal=_removal(players, around, len(data)),
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

    def __init__(self, scene: Scene, site: Site, players: Sequence[Player], workload: Workload) -> None:
        self.known: dict[frozenset[int], float] = {}
        self._scene, self._site, self._players, self._workload = scene, site, players, workload

    def __call__(self, present: frozenset[int]) -> float:
        """Mean of y over Omega with the players in `present` as they are and the others replaced."""
        if present not in self.known:
            away = [player.change for number, player in enumerate(self._players) if number not in present]
            inputs = without(self._scene, self._site.windows, away)
            self.known[present] = self._workload.run(lambda: self._value(inputs), self._scene.grid.window)
        return self.known[present]

    def _value(self, inputs: dict[int, Tensor]) -> float:
        return float(self._scene.values([self._site], inputs, batch=self._workload.schedule.batch)[0].mean())


def _players(scene: Scene, site: Site, lesion: Difference, *, edges_mm: tuple[float, ...], fill: str) -> list[Player]:
    """Every channel in every shell that has a voxel in the head."""
    placement = scene.placement
    sizes, shape = placement.scan_sizes_mm, placement.scan.shape[1:]
    reach = max((*edges_mm, 0.0)) + _BLUR_SDS * _BLUR_MM  # a blurred voxel knows what lies so far away
    margin = [int(np.ceil(reach / size)) + 1 for size in sizes]
    start, stop = site.voxels.min(axis=0) - margin, site.voxels.max(axis=0) + np.add(margin, 1)
    box = Box(tuple(np.maximum(start, 0).tolist()), tuple(np.minimum(stop, shape).tolist()))
    omega = np.zeros(box.shape, dtype=bool)
    omega[tuple((site.voxels - np.asarray(box.start)).T)] = True
    distance = distance_to_mm(omega, sizes)
    head = placement.scan_head[box.slices].cpu().numpy()
    scan = placement.scan[(slice(None), *box.slices)].detach().cpu()
    away = scan - _reference(scan - lesion.on(box), head, fill, sizes)
    shells = {"lesion": omega & head}
    for low, high in zip((0.0, *edges_mm), edges_mm, strict=False):
        shells[f"{low:g}-{high:g} mm"] = (distance > low) & (distance <= high) & head
    found = []
    for channel in range(len(scan)):
        for name, mask in shells.items():
            if mask.any():
                values = torch.zeros_like(scan)
                values[channel][torch.from_numpy(mask)] = away[channel][torch.from_numpy(mask)]
                difference = Difference(values, box)
                found.append(Player(channel, name, mask, box, difference, difference.pushed(scene)))
    return found


def _reference(scan: Tensor, head: MaskArray, fill: str, sizes_mm: Millimetres) -> Tensor:
    """What voxels are replaced by, from the lesion-free scan (channels, i, j, k)."""
    if fill == "zero":
        return torch.zeros_like(scan)
    sigma = [_BLUR_MM / size for size in sizes_mm]
    inside = head.astype(np.float32)
    weight = ndimage.gaussian_filter(inside, sigma, truncate=_BLUR_SDS)
    blurred = [
        ndimage.gaussian_filter(channel * inside, sigma, truncate=_BLUR_SDS) / np.maximum(weight, 1e-6) * head
        for channel in scan.numpy()
    ]
    return torch.from_numpy(np.stack(blurred)).to(scan)


def _removal(players: Sequence[Player], box: Box, channels: int) -> Removal:
    """What the players take away together, and whose each voxel is."""
    difference, whose = np.zeros((channels, *box.shape)), np.zeros((channels, *box.shape), dtype=np.int16)
    for number, player in enumerate(players, start=1):
        difference += player.difference.values.numpy()
        whose[player.channel][player.mask] = number
    return Removal(difference, box, whose)
