"""Normalisation by a window's own statistics, held at what they were for the unchanged scan."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)


def has_instance_norm(network: nn.Module) -> bool:
    """True if the network normalises each window by the window's own statistics."""
    return any(_by_own(module) for module in network.modules())


def _by_own(module: nn.Module) -> bool:
    return isinstance(module, NORMS) and not getattr(module, "track_running_stats", False)


class HeldNorms:
    """Scale and shift per call of each normalisation layer, recorded on one pass and used in the following ones."""

    def __init__(self) -> None:
        self._known: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._calls: dict[int, int] = {}
        self._recording = True

    def record(self) -> None:
        """The next pass is recorded."""
        self._known, self._calls, self._recording = {}, {}, True

    def replay(self) -> None:
        """The next passes use what was recorded."""
        self._calls, self._recording = {}, False

    def forward(self, module: Any, own_fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """In place of the layer's own forward pass: voxel by voxel once its statistics are known."""
        if self._recording:
            self._known.setdefault(id(module), []).append(_affine(module, x))
            return own_fn(x)
        calls, at = self._known[id(module)], self._calls.get(id(module), 0)
        self._calls[id(module)] = (at + 1) % len(calls)
        scale, shift = calls[at]
        return x * scale + shift


@contextmanager
def norm_statistics(network: nn.Module, *, frozen: bool) -> Iterator[HeldNorms]:
    """The normalisation layers do as `HeldNorms` says while it lasts, and as ever afterwards."""
    statistics = HeldNorms()
    layers = [module for module in network.modules() if frozen and _by_own(module)]
    for module in layers:
        module.forward = partial(statistics.forward, module, module.forward)  # type: ignore[method-assign]
    try:
        yield statistics
    finally:
        for module in layers:
            del module.forward


def _affine(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the layer does to one item x (1, channels, ...), as a factor and a summand per channel."""
    groups = module.num_groups if isinstance(module, nn.GroupNorm) else x.shape[1]
    folded = x.reshape(x.shape[0], groups, -1)
    mean, variance = folded.mean(dim=2), folded.var(dim=2, correction=0)
    scale = torch.rsqrt(variance + module.eps).repeat_interleave(x.shape[1] // groups, dim=1)
    shift = -mean.repeat_interleave(x.shape[1] // groups, dim=1) * scale
    if module.weight is not None:
        scale, shift = scale * module.weight, shift * module.weight + module.bias
    shape = (x.shape[0], x.shape[1], *([1] * (x.ndim - 2)))
    return scale.reshape(shape), shift.reshape(shape)
