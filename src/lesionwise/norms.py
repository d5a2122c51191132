"""Normalisation by a window's own statistics, held at what they were for the unchanged window.

Instance and group normalisation divide every voxel by figures gathered over the whole window, so that each voxel of the
output depends on each of the input. With those figures held, they are an affine map per channel, which is local. PyTorch's
functions are replaced while this lasts, not modules: a network that calls them itself is held too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten
_Norm = tuple[Tensor, int, Tensor | None, Tensor | None, float]
"""Input, number of groups, weight, bias, epsilon."""


@dataclass(eq=False)
class Statistics:
    """Mean and variance per channel of every normalisation in one pass over a window, in the order of the calls."""

    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    known: bool = False


class Held(TorchFunctionMode):
    """Normalises by `statistics`; a pass before they are known records them (and normalises by them as well).

    Raises NotImplementedError if a later pass normalises more often than the recorded one.
    """

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        self._statistics, self._recording, self._number = statistics, not statistics.known, 0

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._statistics.known = self._statistics.known or error[0] is None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        read_fn = _NORMS.get(func)
        norm = None if read_fn is None else read_fn(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if norm is None else self._normalised(*norm)

    def _normalised(self, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        if self._recording:
            self._statistics.calls.append(_figures(x.detach(), groups))
        if self._number >= len(self._statistics.calls):
            raise NotImplementedError("The network normalises more often than for the unchanged window.")
        mean, variance = self._statistics.calls[self._number]
        self._number += 1
        return nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


class HeldNetwork(nn.Module):
    """A network whose normalisations use `statistics` in every pass; the first pass records them."""

    def __init__(self, network: nn.Module, statistics: Statistics) -> None:
        super().__init__()
        self.network, self._statistics = network, statistics

    def forward(self, x: Tensor) -> Any:
        """What the network gives for x (batch, channels, i, j, k)."""
        with Held(self._statistics):
            return self.network(x)


def normalises_by_itself(network: nn.Module) -> bool:
    """True if a layer normalises a window by the window's own figures (instance or group normalisation)."""
    kinds = ("InstanceNorm", "GroupNorm")
    for module in network.modules():
        name = getattr(module, "original_name", type(module).__name__)
        by_kind = isinstance(module, (nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)) or name.startswith(kinds)
        if by_kind and not getattr(module, "track_running_stats", False):
            return True
    return False


def can_be_held(network: nn.Module) -> bool:
    """False for TorchScript, whose normalisations cannot be reached."""
    return not any(isinstance(module, torch.jit.ScriptModule) for module in network.modules())


def is_held(network: nn.Module) -> bool:
    """True if the network normalises by a window's own figures and these can be held."""
    return normalises_by_itself(network) and can_be_held(network)


def _figures(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel of one window (the first item), each shared by the channels of a group."""
    folded = x[:1].reshape(groups, -1)
    variance, mean = torch.var_mean(folded, dim=1, correction=0)
    each = x.shape[1] // groups
    return mean.repeat_interleave(each), variance.repeat_interleave(each)


def _instance(
    x: Tensor, running_mean: Any = None, running_var: Any = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5, *_: Any,
) -> _Norm | None:  # fmt: skip
    return (x, x.shape[1], weight, bias, eps) if use_input_stats and x.ndim == 5 else None


def _instance_op(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Any, running_var: Any, use_input_stats: bool,
    momentum: float, eps: float, cudnn_enabled: bool = True,
) -> _Norm | None:  # fmt: skip
    return (x, x.shape[1], weight, bias, eps) if use_input_stats and x.ndim == 5 else None


def _group(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> _Norm | None:
    return (x, num_groups, weight, bias, eps) if x.ndim == 5 else None


_NORMS: dict[Any, Callable[..., _Norm | None]] = {
    nn.functional.instance_norm: _instance,
    torch.instance_norm: _instance_op,
    _aten.instance_norm.default: _instance_op,
    nn.functional.group_norm: _group,
    torch.group_norm: _group,
    _aten.group_norm.default: _group,
}
