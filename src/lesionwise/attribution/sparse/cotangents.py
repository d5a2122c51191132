"""Rules by which cotangents come back through the layers of convolutional networks, computed on their boxes alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lesionwise.attribution.sparse.local import LocalActivation, LocalCotangent, Rule, cut, input_box, mirrored, window
from lesionwise.attribution.sparse.unchanged import rules_that_keep_values
from lesionwise.geometry.box import Box

_aten = torch.ops.aten


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
        held = grad.convolutions.gather(held, weight, stride, dilation, groups)
    else:
        held = grad.convolutions.scatter(grad.held, weight, stride, dilation, groups)
        origin = [grad.box.start[a] * stride[a] - padding[a] for a in range(3)]
        held = window(held, origin, box.start, box.stop)
    return grad.follow(held, box, x.shape), None, None


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
    if not isinstance(grad, LocalCotangent) or grad.box is None or isinstance(x, LocalCotangent):
        return NotImplemented
    if grad.note_fn is not None:
        grad.note_fn(x, weight, grad.box)
    part = _beside(grad, cut(x, grad.box))
    if weight.numel() == 1 and weight.device.type == "cpu":  # one pass over the values instead of three
        held = _aten.leaky_relu_backward.default(grad.held, part, float(weight), False)
    else:
        held = grad.held * torch.where(part > 0, torch.ones((), dtype=x.dtype, device=x.device), weight)
    return grad.follow(held, grad.box, grad.shape), torch.zeros_like(weight)


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
        elif isinstance(x, LocalActivation) and x.shape == grad.shape:
            cropped.append(_beside(grad, cut(x, box)))
        elif isinstance(x, Tensor) and x.ndim:
            fits = x.ndim == 5 and x.shape[0] in (1, grad.shape[0]) and x.shape[1] in (1, grad.shape[1])
            if isinstance(x, LocalActivation) or not fits:
                return NotImplemented
            if any(n not in (1, m) for n, m in zip(x.shape[2:], grad.shape[2:], strict=True)):
                return NotImplemented
            keep: list[slice] = [s if n > 1 else slice(None) for s, n in zip(box.slices, x.shape[2:], strict=True)]
            cropped.append(_beside(grad, x[..., keep[0], keep[1], keep[2]]))
        else:
            cropped.append(x)
    return grad.follow(func(*cropped, **kwargs), box, grad.shape)


def _beside(grad: LocalCotangent, x: Tensor) -> Tensor:
    """An activation's items, once per cotangent."""
    return x if grad.count == 1 or len(x) == 1 else x.repeat(grad.count, 1, 1, 1, 1)


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


def _flip(func: Any, x: LocalCotangent, dims: Sequence[int]) -> Any:
    axes = [dim % x.ndim for dim in dims]
    if x.box is None or min(axes, default=2) < 2:
        return NotImplemented
    return x.follow(func(x.held, axes), mirrored(x.box, x.shape[2:], axes), x.shape)


def _same(func: Any, x: LocalCotangent, *args: Any, **kwargs: Any) -> Any:
    return x.follow(x.held, x.box, x.shape)


def _copied(func: Any, x: LocalCotangent, *args: Any, **kwargs: Any) -> Any:
    dtype = kwargs.get("dtype")
    return x.follow(x.held if dtype is None else x.held.to(dtype), x.box, x.shape)


RULES: dict[Any, Rule] = {
    _aten.convolution_backward.default: _convolution_backward,
    _aten.native_batch_norm_backward.default: _batch_norm_backward,
    _aten._prelu_kernel_backward.default: _prelu_backward,
    _aten.add.Tensor: _add,
    _aten.slice.Tensor: _slice,
    _aten.flip.default: _flip,
    _aten.constant_pad_nd.default: _pad,
    **rules_that_keep_values(_same, _copied),
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
