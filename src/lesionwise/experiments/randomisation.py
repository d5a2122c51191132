"""Networks whose weights are drawn anew, from the output towards the input (Adebayo2018)."""

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import nn

Mode = Literal["cascading", "independent"]


def randomised(
    network: nn.Module, *, stages: int, mode: Mode, rng: np.random.Generator
) -> Iterator[tuple[int, float, nn.Module]]:
    """Yields (stage, fraction of weighted layers drawn anew, copy of the network), from the output inwards.

    Layers that know how to are reset as they were before training; others get their own weights in random order.
    """
    names = [name for name, module in network.named_modules() if _owns_weights(module)]
    groups = [list(part) for part in np.array_split(np.array(names[::-1], dtype=object), min(stages, len(names)))]
    torch_seed = int(rng.integers(2**31))
    current = copy.deepcopy(network)
    done = 0
    for stage, group in enumerate(groups, start=1):
        if mode == "independent":
            current = copy.deepcopy(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed + stage)
            for name in group:
                _draw_anew(current.get_submodule(str(name)))
        done += len(group)
        share = done if mode == "cascading" else len(group)
        yield stage, share / len(names), copy.deepcopy(current).eval()


def _owns_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _draw_anew(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].reshape(parameter.shape))
