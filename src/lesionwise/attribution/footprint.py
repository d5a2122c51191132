"""Which part of each layer's output a lesion's target depends on, learnt once and then computed alone.

The first backward pass through a window (see `local`) tells, layer by layer, the box of the output that matters. Later
forward passes over the same window compute the convolutions, normalisations and activations on those boxes only; the
rest stays 0 and nothing that is asked for reads it. Boxes follow from the layers' geometry, so that this is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lesionwise.attribution.local import input_box, scatter, window
from lesionwise.volume import Box

_aten = torch.ops.aten
_WORTH = 0.7  # share of a layer's output above which computing all of it is as fast


@dataclass(eq=False)
class Footprint:
    """Boxes by the number of the call, in the order in which the network runs. `learnt` once they are complete."""

    boxes: dict[int, Box] = field(default_factory=dict)
    learnt: bool = False

    def add(self, call: int, box: Box) -> None:
        """One more cotangent came through this call's output, within `box`."""
        self.boxes[call] = self.boxes[call].union(box) if call in self.boxes else box


class Watched(TorchDispatchMode):
    """Numbers the calls of a forward pass; computes those with a known box on it alone if the footprint is learnt."""

    def __init__(self, footprint: Footprint) -> None:
        super().__init__()
        self._footprint = footprint
        self._calls: dict[tuple[int, int], int] = {}
        self._ambiguous: set[tuple[int, int]] = set()
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        rule = _RULES.get(func)
        if rule is None or args[0].ndim != 5 or args[0].shape[0] != 1:
            return func(*args, **(kwargs or {}))
        call, self._count = self._count, self._count + 1
        second = args[4] if func is _aten.native_batch_norm.default else args[1]
        if isinstance(second, Tensor):
            key = (args[0].data_ptr(), second.data_ptr())
            if key in self._calls:
                self._ambiguous.add(key)
            self._calls[key] = call
        box = self._footprint.boxes.get(call) if self._footprint.learnt else None
        return func(*args, **(kwargs or {})) if box is None else rule(func, box, *args)

    def note(self, x: Tensor, second: Tensor, box: Box) -> None:
        """A cotangent came through the call with these operands. A call that cannot be told apart is not cropped."""
        key = (x.data_ptr(), second.data_ptr())
        if key in self._calls and key not in self._ambiguous and not box.is_empty:
            self._footprint.add(self._calls[key], box)


def _convolution(
    func: Any, box: Box, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    if weight.ndim != 5:
        return func(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    kernel = weight.shape[2:]
    shape = _output_shape(x.shape[2:], kernel, stride, padding, dilation, output_padding, transposed=transposed)
    source = input_box(box, x.shape[2:], kernel, stride, padding, dilation, transposed=transposed)
    if source.is_empty or _share(box, shape) > _WORTH:
        return func(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    if transposed:
        part = scatter(x[(..., *source.slices)], weight, stride, dilation, groups)
        origin = [source.start[a] * stride[a] - padding[a] for a in range(3)]
        part = window(part, origin, box.start, box.stop)
        if bias is not None:
            part = part + bias.reshape(1, -1, 1, 1, 1)
    else:
        first = [box.start[a] * stride[a] - padding[a] for a in range(3)]
        last = [(box.stop[a] - 1) * stride[a] - padding[a] + dilation[a] * (kernel[a] - 1) + 1 for a in range(3)]
        part = torch.nn.functional.conv3d(window(x, (0, 0, 0), first, last), weight, bias, stride, 0, dilation, groups)
    return _placed(part, box, shape)


def _batch_norm(
    func: Any,
    box: Box,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    if training or _share(box, x.shape[2:]) > _WORTH:
        return func(x, weight, bias, mean, var, training, momentum, eps)
    part, *saved = func(x[(..., *box.slices)], weight, bias, mean, var, training, momentum, eps)
    return (_placed(part, box, x.shape[2:]), *saved)


def _prelu(func: Any, box: Box, x: Tensor, weight: Tensor) -> Tensor:
    if _share(box, x.shape[2:]) > _WORTH:
        return func(x, weight)
    return _placed(func(x[(..., *box.slices)], weight), box, x.shape[2:])


def _placed(part: Tensor, box: Box, shape: Sequence[int]) -> Tensor:
    out = part.new_zeros((*part.shape[:2], *shape))
    out[(..., *box.slices)] = part
    return out


def _share(box: Box, shape: Sequence[int]) -> float:
    share = 1.0
    for own, whole in zip(box.shape, shape, strict=True):
        share *= own / whole
    return share


def _output_shape(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    output_padding: Sequence[int], *, transposed: bool,
) -> list[int]:  # fmt: skip
    out = []
    for axis, n in enumerate(size):
        s, p, reach = stride[axis], padding[axis], dilation[axis] * (kernel[axis] - 1)
        out.append(
            (n - 1) * s - 2 * p + reach + output_padding[axis] + 1 if transposed else (n + 2 * p - reach - 1) // s + 1
        )
    return out


_RULES: dict[Any, Any] = {
    _aten.convolution.default: _convolution,
    _aten.native_batch_norm.default: _batch_norm,
    _aten._prelu_kernel.default: _prelu,
}
"""Calls that are computed on a box alone."""
