"""Cotangents that know where they are not zero, so that a lesion's backward pass costs what a lesion costs.

The derivative of a lesion's target starts on a few voxels of the logits and spreads by one kernel per layer. Ordinary
automatic differentiation multiplies zeros everywhere else. `LocalCotangent` is a tensor of the ordinary shape that
holds only the box that can be nonzero, and as many cotangents as wanted behind one batch entry; PyTorch's own autograd
engine carries it through the graph. Boxes follow from the geometry of the layers, never from values. A layer that is
not known here gets ordinary dense tensors, so that the result is always that of ordinary automatic differentiation.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from lesionwise.volume import Box

_aten = torch.ops.aten

NoteFn = Callable[[Tensor, Tensor, Box], None]
"""Told (input, second operand, box of the output that matters) of every layer that the cotangents come through."""


class LocalCotangent(torch.Tensor):
    """`count` tensors of shape `shape`, zero outside `box`: `held` is (count, channels, *box).

    `box` is None where the shape is not (1, channels, i, j, k); then `held` is (count, *shape). `note_fn` hears which
    box of which layer's output matters.
    """

    held: Tensor
    box: Box | None
    note_fn: "NoteFn | None"

    @staticmethod
    def __new__(
        cls, held: Tensor, box: Box | None, shape: Sequence[int], note_fn: "NoteFn | None" = None
    ) -> "LocalCotangent":
        made = torch.Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=held.dtype, device=held.device)
        made.held, made.box, made.note_fn = held, box, note_fn
        return made

    def follow(self, held: Tensor, box: Box | None, shape: Sequence[int]) -> "LocalCotangent":
        """The next cotangent on the way back."""
        return LocalCotangent(held, box, shape, self.note_fn)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        rule = _RULES.get(func)
        if rule is not None:
            found = rule(func, *args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        return _densely(func, args, kwargs or {})

    def dense(self, index: int) -> Tensor:
        """One of the cotangents as an ordinary tensor."""
        if self.box is None:
            return self.held[index]
        if self.box.shape == tuple(self.shape[2:]):
            return self.held[index : index + 1]
        out = self.held.new_zeros(self.shape)
        out[(0, slice(None), *self.box.slices)] = self.held[index]
        return out

    def __repr__(self) -> str:  # type: ignore[override]
        return f"LocalCotangent({len(self.held)} x {tuple(self.shape)} on {self.box})"


def _densely(func: Any, args: tuple, kwargs: dict) -> Any:
    """An operation without a rule: once per cotangent, on ordinary tensors."""
    local = [x for x in tree_leaves((args, kwargs)) if isinstance(x, LocalCotangent)]
    if func._schema.is_mutable:
        raise NotImplementedError(f"{func} writes into a cotangent.")
    results = []
    for k in range(len(local[0].held)):
        plain_args, plain_kwargs = tree_map_only(LocalCotangent, partial(_dense_of, index=k), (args, kwargs))
        results.append(func(*plain_args, **plain_kwargs))
    if isinstance(results[0], (tuple, list)):
        return type(results[0])(_stacked([r[n] for r in results], local[0]) for n in range(len(results[0])))
    return _stacked(results, local[0])


def _dense_of(x: LocalCotangent, *, index: int) -> Tensor:
    return x.dense(index)


def _stacked(values: list, before: LocalCotangent) -> Any:
    first = values[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return first
    if first.ndim == 5 and first.shape[0] == 1:
        return before.follow(torch.cat(values), Box.whole(tuple(first.shape[2:])), first.shape)  # type: ignore[arg-type]
    return before.follow(torch.stack(values), None, first.shape)


def input_box(
    out: Box, size: Sequence[int], kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, *, transposed: bool
) -> Box:
    """What a box of a convolution's output reads of its input of `size`."""
    start, stop = [], []
    for axis in range(3):
        a, b = out.start[axis], out.stop[axis]
        s, p, reach = stride[axis], padding[axis], dilation[axis] * (kernel[axis] - 1)
        if transposed:  # output o reads input i where o = i s - p + t
            low, high = -((reach - a - p) // s), (b - 1 + p) // s + 1
        else:  # output o reads input o s - p + t
            low, high = a * s - p, (b - 1) * s - p + reach + 1
        low = min(max(low, 0), size[axis])
        start.append(low)
        stop.append(max(min(high, size[axis]), low))
    if out.is_empty:
        stop = start
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _convolution_backward(
    func: Any, grad: Any, x: Any, weight: Any, bias_sizes: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, mask: Sequence[bool],
) -> Any:  # fmt: skip
    if not isinstance(grad, LocalCotangent) or grad.box is None or weight.ndim != 5 or mask[1] or mask[2]:
        return NotImplemented
    if isinstance(x, LocalCotangent) or isinstance(weight, LocalCotangent):
        return NotImplemented
    kernel, size = weight.shape[2:], x.shape[2:]
    if grad.note_fn is not None:
        grad.note_fn(x, weight, grad.box)
    box = input_box(grad.box, size, kernel, stride, padding, dilation, transposed=transposed)
    if box.is_empty:
        return grad.follow(grad.held.new_zeros((len(grad.held), x.shape[1], *box.shape)), box, x.shape), None, None
    if transposed:
        first = [box.start[a] * stride[a] - padding[a] for a in range(3)]
        last = [(box.stop[a] - 1) * stride[a] - padding[a] + dilation[a] * (kernel[a] - 1) + 1 for a in range(3)]
        # negative coordinates are allowed here, so that this is not a Box
        held = window(grad.held, grad.box.start, first, last)
        held = torch.nn.functional.conv3d(held, weight, None, stride, 0, dilation, groups)
    else:
        held = scatter(grad.held, weight, stride, dilation, groups)
        origin = [grad.box.start[a] * stride[a] - padding[a] for a in range(3)]
        held = window(held, origin, box.start, box.stop)
    return grad.follow(held, box, x.shape), None, None


def scatter(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
    """Transposed convolution without padding: voxel i reaches i * stride .. i * stride + dilation * (kernel - 1).

    Asked for as the backward pass of a convolution, for which there are faster kernels than for its transpose.
    """
    reach = [
        (n - 1) * s + d * (k - 1) + 1
        for n, s, d, k in zip(x.shape[2:], stride, dilation, weight.shape[2:], strict=True)
    ]
    unread = x.new_empty((len(x), weight.shape[1] * groups, *reach))
    found = _aten.convolution_backward.default(
        x, unread, weight, None, stride, [0] * 3, dilation, False, [0] * 3, groups, [True, False, False]
    )
    return found[0]


def window(x: Tensor, origin: Sequence[int], start: Sequence[int], stop: Sequence[int]) -> Tensor:
    """`x`, whose first voxel lies at `origin`, from `start` to `stop`, with zeros beyond it."""
    shape = x.shape[-3:]
    widths: list[int] = []
    for a in (2, 1, 0):
        widths += [origin[a] - start[a], stop[a] - origin[a] - shape[a]]
    return torch.nn.functional.pad(x, widths) if any(widths) else x


def _batch_norm_backward(
    func: Any, grad: Any, x: Any, weight: Any, mean: Any, var: Any, s1: Any, s2: Any, train: bool, eps: float, mask: Any
) -> Any:
    if train or not isinstance(grad, LocalCotangent) or grad.box is None or mask[1] or mask[2]:
        return NotImplemented
    if grad.note_fn is not None:
        grad.note_fn(x, var, grad.box)
    factor = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    return grad.follow(grad.held * factor.to(grad.held).reshape(1, -1, 1, 1, 1), grad.box, grad.shape), None, None


def _prelu_backward(func: Any, grad: Any, x: Tensor, weight: Tensor) -> Any:
    if not isinstance(grad, LocalCotangent) or grad.box is None:
        return NotImplemented
    if grad.note_fn is not None:
        grad.note_fn(x, weight, grad.box)
    slope = torch.where(x[(..., *grad.box.slices)] > 0, torch.ones((), dtype=x.dtype, device=x.device), weight)
    return grad.follow(grad.held * slope, grad.box, grad.shape), torch.zeros_like(weight)


def _pointwise(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Operations voxel by voxel on one cotangent: other tensors are cut to its box."""
    local = [x for x in args if isinstance(x, LocalCotangent)]
    if len(local) != 1 or local[0].box is None:
        return NotImplemented
    grad, box = local[0], local[0].box
    cropped: list[Any] = []
    for x in args:
        if isinstance(x, LocalCotangent):
            cropped.append(x.held)
        elif isinstance(x, Tensor) and x.ndim:
            if x.ndim != 5 or x.shape[0] != 1 or x.shape[1] not in (1, grad.shape[1]):
                return NotImplemented
            if any(n not in (1, m) for n, m in zip(x.shape[2:], grad.shape[2:], strict=True)):
                return NotImplemented
            keep: list[slice] = [s if n > 1 else slice(None) for s, n in zip(box.slices, x.shape[2:], strict=True)]
            cropped.append(x[..., keep[0], keep[1], keep[2]])
        else:
            cropped.append(x)
    return grad.follow(func(*cropped, **kwargs), box, grad.shape)


def _add(func: Any, a: Any, b: Any, *, alpha: float = 1) -> Any:
    if not (isinstance(a, LocalCotangent) and isinstance(b, LocalCotangent)) or a.box is None or b.box is None:
        return NotImplemented
    if len(a.held) != len(b.held) or a.shape != b.shape:
        return NotImplemented
    union = b.box if a.box.is_empty else a.box if b.box.is_empty else a.box.union(b.box)
    if union == a.box == b.box:
        return a.follow(torch.add(a.held, b.held, alpha=alpha), union, a.shape)
    large, small = (a, b) if union == a.box else (b, a)
    if union == large.box and alpha == 1:
        total = large.held.clone()
        rest = [small]
    else:
        total, rest = a.held.new_zeros((len(a.held), a.shape[1], *union.shape)), [a, b]
    for x in rest:
        if x.box is not None and not x.box.is_empty:
            part = total[(..., *x.box.relative_to(union).slices)]
            part.add_(x.held, alpha=alpha if x is b else 1)
    return a.follow(total, union, a.shape)


def _slice(
    func: Any, x: LocalCotangent, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    dim = dim % x.ndim
    low, high, _ = slice(start, end).indices(x.shape[dim])
    if x.box is None or step != 1 or dim == 0:
        return NotImplemented
    shape = list(x.shape)
    shape[dim] = max(high - low, 0)
    if dim == 1:
        return x.follow(x.held[:, low:high], x.box, shape)
    axis = dim - 2
    a, b = list(x.box.start), list(x.box.stop)
    first, last = max(a[axis], low), max(min(b[axis], high), max(a[axis], low))
    keep = [slice(None)] * 5
    keep[dim] = slice(min(first - a[axis], b[axis] - a[axis]), max(min(last, b[axis]) - a[axis], 0))
    held = x.held[tuple(keep)]
    a[axis] = min(max(first - low, 0), shape[dim])
    b[axis] = a[axis] + held.shape[dim]
    return x.follow(held, Box((a[0], a[1], a[2]), (b[0], b[1], b[2])), shape)


def _pad(func: Any, x: LocalCotangent, pad: Sequence[int], value: float = 0) -> Any:
    if x.box is None or value != 0 or len(pad) > 6:
        return NotImplemented
    for position in range(0, len(pad), 2):  # a crop first, then a shift
        dim = 4 - position // 2
        before, after = pad[position], pad[position + 1]
        if before < 0 or after < 0:
            x = _slice(func, x, dim, max(-before, 0), x.shape[dim] - max(-after, 0))
        shape = list(x.shape)
        shape[dim] += max(before, 0) + max(after, 0)
        shift = [0, 0, 0]
        shift[dim - 2] = max(before, 0)
        if x.box is None:
            return NotImplemented
        x = x.follow(x.held, x.box.shifted((shift[0], shift[1], shift[2])), shape)
    return x


def _same(func: Any, x: LocalCotangent, *args: Any, **kwargs: Any) -> Any:
    return x.follow(x.held, x.box, x.shape)


def _copied(func: Any, x: LocalCotangent, *args: Any, **kwargs: Any) -> Any:
    dtype = kwargs.get("dtype")
    return x.follow(x.held if dtype is None else x.held.to(dtype), x.box, x.shape)


def _reshaped(func: Any, x: LocalCotangent, shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
    return _same(func, x) if tuple(shape) == tuple(x.shape) else NotImplemented


_RULES: dict[Any, Callable[..., Any]] = {
    _aten.convolution_backward.default: _convolution_backward,
    _aten.native_batch_norm_backward.default: _batch_norm_backward,
    _aten._prelu_kernel_backward.default: _prelu_backward,
    _aten.add.Tensor: _add,
    _aten.slice.Tensor: _slice,
    _aten.constant_pad_nd.default: _pad,
    _aten.detach.default: _same,
    _aten.alias.default: _same,
    _aten.clone.default: _copied,
    _aten._to_copy.default: _copied,
    _aten.view.default: _reshaped,
    _aten._unsafe_view.default: _reshaped,
    _aten.expand.default: _reshaped,
    _aten.is_same_size.default: lambda func, a, b: tuple(a.shape) == tuple(b.shape),
    **dict.fromkeys(
        (
            _aten.mul.Tensor, _aten.mul.Scalar, _aten.div.Tensor, _aten.div.Scalar, _aten.neg.default,
            _aten.threshold_backward.default, _aten.leaky_relu_backward.default, _aten.elu_backward.default,
            _aten.gelu_backward.default, _aten.silu_backward.default, _aten.softplus_backward.default,
            _aten.tanh_backward.default, _aten.sigmoid_backward.default, _aten.hardtanh_backward.default,
            _aten.hardswish_backward.default, _aten.hardsigmoid_backward.default, _aten.mish_backward.default,
        ),
        _pointwise,
    ),
}  # fmt: skip
"""Operations with a rule of their own: those of convolutional networks whose normalisation is local."""
