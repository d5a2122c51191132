"""Convolutions of whole windows by the faster of PyTorch's own kernels.

PyTorch chooses among its kernels by rules that were made for images in two dimensions: of one window in three dimensions a
first layer, which reads few channels, goes the slow way, and so does a transposed convolution to few channels. While
`QuickConvolutions` lasts such layers go another way. Which one follows from the layer's shape alone, so that equal input
gives equal bytes; values agree with those of PyTorch's own choice up to the rounding of single precision.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

_FEW_OUTPUTS = 4
"""Output channels up to which a transposed convolution is quickest by the phases of its stride."""
_MANY_VOXELS = 8192
"""Voxels of its input from which it is."""


class UncompiledMode(TorchDispatchMode):
    """A mode that is never compiled. PyTorch would import its compiler (seconds) to keep it out of an ordinary one."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class QuickConvolutions(UncompiledMode):
    """While it lasts, convolutions in single precision on a processor go the quick way; all others as usual."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is _aten.convolution.default and _has_choice(args[0], args[1]):
            return _convolution(*args)
        return func(*args, **(kwargs or {}))


def _has_choice(x: Tensor, weight: Tensor) -> bool:
    plain = type(x) is Tensor and x.ndim == 5 and x.device.type == "cpu"
    return plain and x.dtype == weight.dtype == torch.float32 and has_kernels()


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    if not transposed:
        return _aten.mkldnn_convolution.default(x, weight, bias, padding, stride, dilation, groups)
    few = groups == 1 and weight.shape[1] <= _FEW_OUTPUTS and x.shape[2:].numel() >= _MANY_VOXELS
    if few and all(step == 1 for step in dilation):
        return by_phases(x, weight, bias, stride, padding, output_padding)
    return _aten.convolution.default(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)


def by_phases(
    x: Float[Tensor, "batch inputs i j k"], weight: Float[Tensor, "inputs outputs a b c"], bias: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], output_padding: Sequence[int],
) -> Float[Tensor, "batch outputs i2 j2 k2"]:  # fmt: skip
    """A transposed convolution as an ordinary one with outputs * prod(stride) channels, one for each phase of the stride.

    An output's phase is its place modulo the stride. Outputs of one phase read their inputs through the same part of the
    kernel: along an axis output `stride * q + phase` is a sum, over offsets, of input `q + offset` times the kernel's value at
    `phase + padding - stride * offset`. (Shi et al., CVPR 2016, "sub-pixel convolution".)
    """
    outputs, around, size, used = weight.shape[1], [], [], []
    for axis, (step, pad) in enumerate(zip(stride, padding, strict=True)):
        before, width = x.shape[2 + axis], weight.shape[2 + 2 * axis]
        first, last = -((width - 1 - pad) // step), (step - 1 + pad) // step
        place = torch.arange(step)[:, None] + pad - step * torch.arange(first, last + 1)
        weight = weight.movedim(2 + 2 * axis, -1)
        values = weight[..., place.clamp(0, width - 1)] * ((place >= 0) & (place < width))
        weight = values.movedim((-2, -1), (2 + 2 * axis, 3 + 2 * axis))  # from (..., width) to (..., phase, offset)
        size.append((before - 1) * step - 2 * pad + width + output_padding[axis])
        steps = -(-size[axis] // step)
        around.append(max(-first, steps + last - before, 0))
        used.append(slice(first + around[axis], first + around[axis] + steps))
    one, each = [1] * 3, None if bias is None else bias.repeat_interleave(prod(stride))
    phases = weight.permute(1, 2, 4, 6, 0, 3, 5, 7).flatten(0, 3).contiguous()
    found = _aten.mkldnn_convolution.default(x, phases, each, around, one, one, 1)
    found = found[:, :, *used].unflatten(1, (outputs, *stride)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return found.flatten(6, 7).flatten(4, 5).flatten(2, 3)[:, :, : size[0], : size[1], : size[2]].contiguous()


@lru_cache(maxsize=1)
def has_kernels() -> bool:
    """True if this build of PyTorch has the kernels by these names, and they give what its own choice gives."""
    try:
        x, weight, bias = torch.arange(2.0 * 27).view(1, 2, 3, 3, 3), torch.ones(2, 2, 2, 2, 2), torch.ones(2)
        one, none = [1] * 3, [0] * 3
        usual = _aten.convolution.default(x, weight, bias, one, none, one, False, none, 1)
        quick = _aten.mkldnn_convolution.default(x, weight, bias, none, one, one, 1)
        turned = _aten.convolution.default(x, weight, bias, one, none, one, True, none, 1)
        phases = by_phases(x, weight, bias, one, none, none)
        return torch.allclose(usual, quick) and torch.allclose(turned, phases)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
