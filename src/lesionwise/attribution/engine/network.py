"""The caller's network, held still while it is differentiated and left exactly as it was found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from lesionwise.errors import UnsupportedModelError
from lesionwise.network import frozen

__all__ = ["convolutions", "frozen", "layer_named"]


@contextmanager
def convolutions(*, tf32: bool) -> Iterator[None]:
    """cuDNN's float32 convolutions rounded to TF32's 10 bits or not; PyTorch's own default is to round. As before after it."""
    cudnn: Any = torch.backends.cudnn
    try:
        value: Any = tf32
        holder, name, before = cudnn, "allow_tf32", cudnn.allow_tf32
    except RuntimeError:  # the caller has set PyTorch's newer flag, after which the older one cannot be read
        value = "tf32" if tf32 else "ieee"
        holder, name, before = cudnn.conv, "fp32_precision", cudnn.conv.fp32_precision
    try:
        setattr(holder, name, value)
        yield
    finally:
        setattr(holder, name, before)


@contextmanager
def recomputing(network: nn.Module) -> Iterator[nn.Module]:
    """Blocks of the network keep their input alone for the backward pass, and run forward again in it. As before after it."""
    blocks = blocks_of(network)

    def run(inner_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return inner_fn(*args, **kwargs)
        return checkpoint(inner_fn, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    try:
        for block in blocks:
            block.forward = partial(run, block.forward)  # type: ignore[method-assign]
        yield network
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


@contextmanager
def watching_blocks(network: nn.Module, held_fn: Callable[[], int]) -> "Iterator[list[tuple[int, int]]]":
    """The list that is given gets, per call of a block, the bytes of its inputs and what `held_fn` grew by inside it."""
    found: list[tuple[int, int]] = []
    entered: list[int] = []

    def before(_module: Any, _args: Any) -> None:
        entered.append(held_fn())

    def after(_module: Any, args: Any, _output: Any) -> None:
        nbytes = sum(x.untyped_storage().nbytes() for x in tree_leaves(args) if isinstance(x, Tensor))
        found.append((nbytes, held_fn() - entered.pop()))

    handles = []
    for block in blocks_of(network):
        handles += [block.register_forward_pre_hook(before), block.register_forward_hook(after)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Modules that are worth running twice: the outermost that directly hold a unit (the smallest modules with a
    convolution and a normalisation), or a unit itself where only the whole network holds it. None of TorchScript."""
    units = set(_units(network))
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, torch.jit.ScriptModule) or "forward" in child.__dict__:
                continue
            if child in units or any(part in units for part in child.children()):
                found.append(child)
            else:
                look(child)

    look(network)
    return list(dict.fromkeys(found))


def _units(module: nn.Module) -> list[nn.Module]:
    inside = [unit for child in module.children() for unit in _units(child)]
    if inside or isinstance(module, torch.jit.ScriptModule):
        return inside
    names = [type(part).__name__ for part in module.modules()]
    has_convolution = any(name.startswith("Conv") and name.endswith("d") for name in names)
    return [module] if has_convolution and any("Norm" in name for name in names) else []


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
