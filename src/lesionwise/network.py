"""Anybody's network, asked before it is relied on: held still, looked at without arithmetic, checked against its spec."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.errors import UnsupportedModelError
from lesionwise.types import Shape

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_MULTIPLES = (2, 4, 8, 16, 32, 64)
_CHECKED: "WeakKeyDictionary[nn.Module, set[tuple[int, int, Shape]]]" = WeakKeyDictionary()
_CANNOT_RUN = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError, AssertionError)


@dataclass(frozen=True)
class Layer:
    """One place inside a network that Grad-CAM could look at: module name, class, and output shape for one window."""

    name: str
    kind: str
    output: tuple[int, ...]


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode and parameters without gradient inside the block; every flag as before after it.

    A network handed over in training mode is asked as it would be after `eval()`, and its running statistics stay as they
    are. Raises UnsupportedModelError for a batch normalisation that has only the statistics of the batch.
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


def without_in_place(network: nn.Module) -> nn.Module:
    """Switches in-place activations off: the same values, but hooks and repeated backward passes work."""
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return network


def probe(network: nn.Module, *, channels: int, window: Shape) -> tuple[Any, list[Layer]] | None:
    """Output and layers of a forward pass without arithmetic (on torch's meta device), None where that cannot be done.

    Costs no memory beyond a copy of the weights' shapes; used to see what a network returns before it is used.
    """
    if isinstance(network, torch.jit.ScriptModule):
        return None
    layers: list[Layer] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim >= 4:
                layers.append(Layer(name, type(module).__name__, tuple(output.shape)))

        return hook

    try:
        with torch.device("meta"), torch.no_grad():
            ghost = _ghost(network).eval()
            for name, module in ghost.named_modules():
                if name:
                    module.register_forward_hook(note(name))
            output = ghost(torch.empty(1, channels, *window, dtype=dtype_of(network)))
    except _CANNOT_RUN:
        return None
    return output, layers


def answer(network: nn.Module, *, channels: int, window: Shape) -> Any:
    """What a network returns for one window: without arithmetic where that can be done, else for zeros.

    Raises UnsupportedModelError in one sentence if it takes no such window, with one that it takes if there is one near.
    """
    seen = probe(network, channels=channels, window=window)
    if seen is not None:
        return seen[0]
    home = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with frozen(network), torch.no_grad():
            return network(torch.zeros(1, channels, *window, dtype=dtype_of(network), device=home))
    except UnsupportedModelError:
        raise
    except _CANNOT_RUN as error:
        reason = next((line.strip() for line in str(error).splitlines()[::-1] if line.strip()), type(error).__name__)
        near = _window_near(network, channels=channels, window=window)
        hint = "" if near is None else f"; it takes one of {' x '.join(map(str, near))}"
        raise UnsupportedModelError(
            f"The network {_name(network)} does not take {channels} channel{'s' if channels > 1 else ''} on a window of "
            f"{' x '.join(map(str, window))} voxels{hint} ({reason[:160].rstrip('.')})."
        ) from error


def check_fits(network: nn.Module, *, channels: int, outputs: int, window: Shape) -> None:
    """Raises UnsupportedModelError unless one window of so many channels gives logits of so many outputs on that window."""
    done = _CHECKED.setdefault(network, set())
    if (channels, outputs, window) in done:
        return
    found = full_resolution(answer(network, channels=channels, window=window), window)
    if found.shape[1] != outputs:
        raise UnsupportedModelError(
            f"Expected {outputs} classes from the network {_name(network)}, as its spec says, found {found.shape[1]}."
        )
    done.add((channels, outputs, window))


def take_as_fitting(network: nn.Module, *, channels: int, outputs: int, window: Shape) -> None:
    """Notes that this network fits, so that `check_fits` need not see: for models that ship, which tests have checked.

    The first pass on the meta device imports PyTorch's compiler, two seconds that every process would spend.
    """
    _CHECKED.setdefault(network, set()).add((channels, outputs, window))


def check_dtype(network: nn.Module, x: Tensor) -> None:
    """Raises UnsupportedModelError if the weights are of another precision than the input that they will see."""
    found = dtype_of(network)
    if found != x.dtype:
        call = "float()" if x.dtype == torch.float32 else f"to({x.dtype})"
        raise UnsupportedModelError(
            f"Expected a network in {str(x.dtype).removeprefix('torch.')}, found weights in "
            f"{str(found).removeprefix('torch.')}: call network.{call} first."
        )


def check_repeats(network: nn.Module, window: Float[Tensor, "1 channels i j k"]) -> None:
    """Raises UnsupportedModelError if one window, asked twice, gives two answers that differ by more than rounding."""
    with frozen(network), torch.no_grad():
        first, second = (full_resolution(network(window), window.shape[2:]) for _ in range(2))
    largest = float((first - second).abs().max())
    if largest > 1e-3 * max(float(first.abs().max()), 1e-6):
        raise UnsupportedModelError(
            f"The network {_name(network)} gives two answers to one question (a logit differs by {largest:.2g}): expected one "
            "that repeats itself in evaluation mode, without dropout or noise that is always on."
        )


def check_logits(logits: Float[Tensor, "outputs i j k"], *, softmax: bool, members: int = 1) -> None:
    """Raises UnsupportedModelError if what should be logits are probabilities already.

    Probabilities lie within 0 and 1 everywhere, reach below one half, and over the classes of a softmax add up to 1.
    """
    low, high = float(logits.min()), float(logits.max())
    if not (low >= 0.0 and high <= 1.0 and low < 0.5 and high > low):
        return
    if softmax:
        sums = logits.unflatten(0, (members, -1)).sum(dim=1)
        if float((sums - 1).abs().max()) > 1e-3:
            return
    raise UnsupportedModelError(
        f"Expected logits from the network, found probabilities ({low:.3g} to {high:.3g} everywhere"
        f"{', adding up to 1' if softmax else ''}): leave its last {'softmax' if softmax else 'sigmoid'} out, the spec's "
        "activation does that."
    )


def full_resolution(output: Any, size: Sequence[int]) -> Float[Tensor, "batch outputs i j k"]:
    """The logits among what a network returns: a tensor, or the last of a list, tuple or dict that has the input's size.

    Deep supervision stacked along a second axis (batch, heads, outputs, i, j, k) counts as a list of heads. Raises
    UnsupportedModelError if there is none of that size.
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
        found = fitting[-1]
    elif isinstance(output, Tensor) and output.ndim == 6:
        found = output[:, 0]
    if not isinstance(found, Tensor) or found.ndim != 5 or tuple(found.shape[2:]) != wanted:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UnsupportedModelError(
            f"Expected the network to return logits (batch, classes, *{wanted}) for a window of that size, found {what}."
        )
    return found


def dtype_of(network: nn.Module) -> torch.dtype:
    """The floating-point type of the weights; float32 where there are none."""
    return next((p.dtype for p in network.parameters() if p.dtype.is_floating_point), torch.float32)


def _window_near(network: nn.Module, *, channels: int, window: Shape) -> Shape | None:
    """The nearest larger window, by edges that are multiples of a power of two, that the network takes."""
    for step in _MULTIPLES:
        a, b, c = (-(-n // step) * step for n in window)
        if (a, b, c) != window and probe(network, channels=channels, window=(a, b, c)) is not None:
            return a, b, c
    return None


def _name(network: nn.Module) -> str:
    inner = getattr(network, "network", network)
    return str(getattr(inner, "original_name", type(inner).__name__))


def _ghost(network: nn.Module) -> nn.Module:
    """A copy without data: parameters and buffers on the meta device."""
    memo: dict[int, Any] = {}
    for module in network.modules():
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            empty = torch.empty_like(tensor, device="meta")
            memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(network, memo)


def _refuse_batch_statistics(network: nn.Module) -> None:
    for name, module in network.named_modules():
        script = getattr(module, "original_name", type(module).__name__)
        if not (isinstance(module, _BATCH_NORMS) or script.startswith(("BatchNorm", "SyncBatchNorm"))):
            continue
        if getattr(module, "running_mean", 0) is None:
            raise UnsupportedModelError(
                f"Layer {name!r} is a batch normalisation without running statistics, which makes every prediction "
                "depend on the other windows in its batch; expected one with track_running_stats."
            )
