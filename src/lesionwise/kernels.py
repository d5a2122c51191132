"""Convolutions of whole windows by the faster of PyTorch's own kernels.

PyTorch chooses among its kernels by rules that were made for images in two dimensions: of one window in three dimensions a
first layer, which reads few channels, goes the slow way, and so does a transposed convolution to few channels. While
`QuickConvolutions` lasts such layers go another way. Which one follows from the layer's shape alone, so that equal input
gives equal bytes; values agree with those of PyTorch's own choice up to the rounding of single precision.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

_FEW_OUTPUTS = 4
"""Channels up to which a transposed convolution is quickest as one product whose columns are added up."""
_MANY_VOXELS = 4096
"""Voxels from which a transposed convolution is quicker with the channels last in memory, the copy included."""


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
    if groups == 1 and weight.shape[1] <= _FEW_OUTPUTS:
        return _aten.slow_conv_transpose3d.default(
            x, weight, list(weight.shape[2:]), bias, stride, padding, output_padding, dilation
        )
    if x.shape[2:].numel() >= _MANY_VOXELS:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    return _aten.convolution.default(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)


@lru_cache(maxsize=1)
def has_kernels() -> bool:
    """True if this build of PyTorch has the kernels by these names, and they give what its own choice gives."""
    try:
        x, weight, bias = torch.arange(2.0 * 27).view(1, 2, 3, 3, 3), torch.ones(2, 2, 2, 2, 2), torch.ones(2)
        one, none = [1] * 3, [0] * 3
        usual = _aten.convolution.default(x, weight, bias, one, none, one, False, none, 1)
        quick = _aten.mkldnn_convolution.default(x, weight, bias, none, one, one, 1)
        turned = _aten.convolution.default(x, weight, bias, one, none, one, True, none, 1)
        columns = _aten.slow_conv_transpose3d.default(x, weight, [2] * 3, bias, one, none, none, one)
        return torch.allclose(usual, quick) and torch.allclose(turned, columns)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
