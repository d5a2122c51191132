"""Which part of each layer's output a lesion's target depends on, learnt once and then computed alone.

A backward pass through a window tells, layer by layer, the box of the output that matters (see `local`). Only the
layers' geometry counts for that: the pass carries a cotangent without values (no items), and the graph need not hold
values either (see `outline`). Later forward passes over the same window hold activations on those boxes only; the rest is
neither computed nor stored. So this is exact.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lesionwise.attribution.sparse.convolutions import Convolutions
from lesionwise.attribution.sparse.local import LocalActivation, cut, input_box, window
from lesionwise.attribution.sparse.outline import Outline
from lesionwise.geometry.box import Box
from lesionwise.kernels import UncompiledMode
from lesionwise.types import Shape

_aten = torch.ops.aten


@dataclass(eq=False)
class Footprint:
    """Boxes of one window by the number of the call, in the order in which the network runs, and the box of its input.

    `learnt` once they are complete. `refused` if the network does something that activations held in part cannot follow.
    `work` has, for every convolution of the whole window, its multiplications and the voxels of its output.
    """

    boxes: dict[int, Box] = field(default_factory=dict)
    input: Box | None = None
    learnt: bool = False
    refused: bool = False
    held_bytes: int = 0
    work: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, call: int, box: Box) -> None:
        """One more cotangent came through this call's output, within `box`."""
        self.boxes[call] = self.boxes[call].union(box) if call in self.boxes else box

    def arrive(self, box: Box) -> None:
        """One more cotangent has reached the input, within `box`."""
        self.input = box if self.input is None else self.input.union(box)

    def forget(self) -> None:
        """Nothing is known any more."""
        self.boxes, self.input, self.learnt, self.refused, self.work = {}, None, False, False, {}

    @property
    def share_of_work(self) -> float:
        """Multiplications on the boxes over those of the whole window, in 0..1; 1 for a network without convolutions."""
        whole = sum(count for count, _ in self.work.values())
        if not whole:
            return 1.0
        on_boxes = 0.0
        for call, (count, voxels) in self.work.items():
            box = self.boxes.get(call)
            on_boxes += count if box is None else count * math.prod(box.shape) / max(voxels, 1)
        return on_boxes / whole

    @property
    def within(self) -> Box | None:
        """The part of the window's input that is asked for; None as long as all of it has to be given."""
        usable = self.learnt and not self.refused and self.input is not None and not self.input.is_empty
        return self.input if usable else None


@dataclass(frozen=True, eq=False)
class WindowPart:
    """`values` (items, channels, *box) of windows of `size`; beyond `box` nothing is asked for."""

    values: Tensor
    box: Box
    size: Shape

    def activation(self) -> LocalActivation:
        """As a tensor of the window's size, with channels last in memory where processors like it better."""
        values = self.values
        if values.device.type == "cpu":
            values = values.contiguous(memory_format=torch.channels_last_3d)
        return LocalActivation(values, self.box, self.size)


class Watched(UncompiledMode):
    """Numbers the calls of a forward pass; computes those with a known box on it alone if the footprint is learnt."""

    def __init__(self, footprint: Footprint, convolutions: Convolutions, outline: Outline | None = None) -> None:
        super().__init__()
        self._footprint, self._convolutions, self._outline = footprint, convolutions, outline
        self._calls: dict[tuple[int, int], int] = {}
        self._ambiguous: set[tuple[int, int]] = set()
        self._count = 0
        self._local = footprint.within is not None
        self._held_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func not in CALLS or args[0].ndim != 5:
            return func(*args, **(kwargs or {}))
        call, self._count = self._count, self._count + 1
        if self._local:
            box = self._footprint.boxes.get(call)
            return func(*args, **(kwargs or {})) if box is None else self._on_box(func, box, args)
        second = args[4] if func is _aten.native_batch_norm.default else args[1]
        if isinstance(second, Tensor):
            key = (self._address(args[0]), self._address(second))
            if key in self._calls:
                self._ambiguous.add(key)
            self._calls[key] = call
        found = func(*args, **(kwargs or {}))
        if func is _aten.convolution.default and args[1].ndim == 5:
            each = args[0] if args[6] else found  # a transposed convolution spreads every voxel of its input
            count = each[0].numel() * args[1][0].numel()
            self._footprint.work[call] = (count, found.shape[2:].numel())
        return found

    def _address(self, x: Tensor) -> int:
        """What tells a saved tensor from all others: its place in memory, or that of what stands for it."""
        return x.data_ptr() if self._outline is None else self._outline.address(x)

    def note(self, x: Tensor, second: Tensor, box: Box) -> None:
        """A cotangent came through the call with these operands. A call that cannot be told apart is not cropped."""
        if self._local or self._footprint.learnt:
            return
        key = (x.data_ptr(), second.data_ptr())
        if key in self._calls and key not in self._ambiguous and not box.is_empty:
            self._footprint.add(self._calls[key], box)

    def _on_box(self, func: Any, box: Box, args: tuple) -> Any:
        if func is _aten.convolution.default:
            found = self._convolution(func, box, *args)
        elif func is _aten.native_batch_norm.default:
            found = self._batch_norm(func, box, *args)
        else:
            x, weight = args
            found = LocalActivation(func(cut(x, box), weight), box, x.shape[2:])
        first = found[0] if isinstance(found, tuple) else found
        if isinstance(first, LocalActivation):
            self._held_bytes += first.held.nbytes
            self._footprint.held_bytes = max(self._footprint.held_bytes, self._held_bytes // len(first))
        return found

    def _convolution(
        self, func: Any, box: Box, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
        padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
    ) -> Tensor:  # fmt: skip
        kernel = weight.shape[2:]
        size = output_size(x.shape[2:], kernel, stride, padding, dilation, output_padding, transposed=transposed)
        geometry = (stride, padding, dilation, transposed, groups)
        part = convolved(self._convolutions, partial(cut, x), box, x.shape[2:], weight, bias, geometry)
        if part is None:
            return func(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
        return LocalActivation(part, box, size)

    def _batch_norm(
        self, func: Any, box: Box, x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
        momentum: float, eps: float,
    ) -> Any:  # fmt: skip
        if training:
            return func(x, weight, bias, mean, var, training, momentum, eps)
        part, *saved = func(cut(x, box), weight, bias, mean, var, training, momentum, eps)
        return (LocalActivation(part, box, x.shape[2:]), *saved)


def convolved(
    convolutions: Convolutions,
    cut_fn: Callable[[Box], Tensor],
    box: Box,
    size: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int], bool, int],
) -> Tensor | None:
    """A convolution's output on `box`; `cut_fn` gives its input of `size` on a box.

    `geometry` is (stride, padding, dilation, transposed, groups). None if the box reads nothing but padding, or the
    weights are not those of three dimensions.
    """
    stride, padding, dilation, transposed, groups = geometry
    kernel = weight.shape[2:]
    source = input_box(box, size, kernel, stride, padding, dilation, transposed=transposed)
    if weight.ndim != 5 or source.is_empty:
        return None
    if transposed:
        part = convolutions.scatter(cut_fn(source), weight, stride, dilation, groups)
        origin = [source.start[a] * stride[a] - padding[a] for a in range(3)]
        part = window(part, origin, box.start, box.stop)
    else:
        first = [box.start[a] * stride[a] - padding[a] for a in range(3)]
        last = [(box.stop[a] - 1) * stride[a] - padding[a] + dilation[a] * (kernel[a] - 1) + 1 for a in range(3)]
        part = convolutions.gather(window(cut_fn(source), source.start, first, last), weight, stride, dilation, groups)
    return part if bias is None else part + bias.reshape(1, -1, 1, 1, 1)


def output_size(
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


CALLS = (_aten.convolution.default, _aten.native_batch_norm.default, _aten._prelu_kernel.default)
"""Calls that are computed on a box alone."""
