"""The caller's network, held still while it is differentiated and left exactly as it was found."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.errors import UnsupportedModelError

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode and parameters without gradient inside the block; every flag as before after it.

    Raises UnsupportedModelError for a batch normalisation that would use the statistics of the batch.
    """
    _refuse_batch_statistics(network)
    training = [(module, module.training) for module in network.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        network.eval()
        for parameter, _ in gradients:
            parameter.requires_grad_(False)
        yield network
    finally:
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)
        for module, was_training in training:
            module.training = was_training


def full_resolution(output: Any, size: Sequence[int]) -> Float[Tensor, "batch outputs i j k"]:
    """The logits among what a network returns: a tensor, or the first of a list, tuple or dict that has the input's size.

    Deep supervision stacked along a second axis (batch, heads, outputs, i, j, k) counts as a list of heads.
    """
    wanted = tuple(size)
    found = output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        fitting = [part for part in output if isinstance(part, Tensor) and tuple(part.shape[2:]) == wanted]
        if not fitting:
            raise UnsupportedModelError(
                f"Expected logits of the window's size {wanted} among the network's {len(output)} outputs, found none."
            )
        found = fitting[0]
    elif isinstance(output, Tensor) and output.ndim == 6:
        found = output[:, 0]
    if not isinstance(found, Tensor) or found.ndim != 5 or tuple(found.shape[2:]) != wanted:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UnsupportedModelError(
            f"Expected the network to return logits (batch, classes, *{wanted}) for a window of that size, found {what}."
        )
    return found


def layer_named(network: nn.Module, name: str) -> nn.Module:
    """A module inside the network, by its dotted name.

    Raises UnsupportedModelError for TorchScript, which does not call hooks, and for a name that does not exist.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            "Class activation maps need forward hooks, which TorchScript does not call: load the network as Python code, "
            "or use a gradient method such as smoothgrad."
        )
    modules = dict(network.named_modules())
    if name not in modules:
        close = [other for other in modules if other and other.split(".")[-1] == name.split(".")[-1]]
        some = close or [other for other in modules if other]
        raise UnsupportedModelError(
            f"The network has no layer named {name!r}; it has, among others, {', '.join(some[-6:])}."
        )
    return modules[name]


def _refuse_batch_statistics(network: nn.Module) -> None:
    for name, module in network.named_modules():
        script = getattr(module, "original_name", type(module).__name__)
        if not (isinstance(module, _BATCH_NORMS) or script.startswith(("BatchNorm", "SyncBatchNorm"))):
            continue
        if module.training:
            raise UnsupportedModelError(
                f"Layer {name!r} is a batch normalisation in training mode, which makes every prediction depend on the "
                "other windows in its batch: call network.eval() first."
            )
        if getattr(module, "running_mean", 0) is None:
            raise UnsupportedModelError(
                f"Layer {name!r} is a batch normalisation without running statistics, which makes every prediction "
                "depend on the other windows in its batch; expected one with track_running_stats."
            )
