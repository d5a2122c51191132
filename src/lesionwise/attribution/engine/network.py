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
def recomputing(network: nn.Module) -> "Iterator[list[int]]":
    """Blocks of the network (the smallest modules with a convolution and a normalisation) keep their input alone for the
    backward pass, and run forward again in it. Modules as before after it.

    The list that is given gets, per call of a block, the bytes of its input and of its output.
    """
    sizes: list[int] = []
    blocks = [] if isinstance(network, torch.jit.ScriptModule) else _blocks(network)

    def run(inner_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return inner_fn(*args, **kwargs)
        found = checkpoint(inner_fn, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        sizes.extend(sum(x.nbytes for x in tree_leaves(part) if isinstance(x, Tensor)) for part in (args, found))
        return found

    try:
        for block in blocks:
            block.forward = partial(run, block.forward)  # type: ignore[method-assign]
        yield sizes
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The smallest modules inside that hold a convolution and a normalisation, found without looking into TorchScript."""
    if isinstance(module, torch.jit.ScriptModule) or "forward" in module.__dict__:
        return []
    inside = [block for child in module.children() for block in _blocks(child)]
    if inside:
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
