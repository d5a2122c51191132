"""Rules by which activations go forward through a network's operations on their boxes alone.

Convolutions, normalisations and PReLU get their boxes from the footprint; what lies between them keeps the box that all
its operands know.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from lesionwise.attribution.sparse.local import LocalActivation, Rule, cut, mirrored
from lesionwise.attribution.sparse.unchanged import rules_that_keep_values
from lesionwise.geometry.box import Box

_aten = torch.ops.aten


def _known(tensors: Sequence[Any]) -> Box:
    boxes = [x.box for x in tensors if isinstance(x, LocalActivation)]
    return reduce(Box.intersection, boxes)


def pointwise(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Voxel by voxel, of one or more activations of one size, numbers, and tensors of one voxel."""
    local = [x for x in args if isinstance(x, LocalActivation)]
    box, size = _known(local), local[0].shape[2:]
    cropped: list[Any] = []
    for x in args:
        if not isinstance(x, Tensor) or x.ndim == 0:
            cropped.append(x)
        elif x.ndim == 5 and x.shape[2:] == size:
            cropped.append(cut(x, box))
        elif x.ndim == 5 and x.shape[2:].numel() == 1 and not isinstance(x, LocalActivation):
            cropped.append(x)
        else:
            return NotImplemented
    return LocalActivation(func(*cropped, **kwargs), box, size)


def in_place(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """The same, written into the first operand."""
    if not isinstance(x, LocalActivation) or any(isinstance(y, Tensor) and y.ndim for y in args):
        return NotImplemented
    func(x.held, *args, **kwargs)
    return x


def _add_in_place(func: Any, x: Any, other: Any, **kwargs: Any) -> Any:
    if not isinstance(x, LocalActivation) or not isinstance(other, Tensor) or other.shape != x.shape:
        return NotImplemented
    box = _known([x, other])
    part = x.held[(..., *box.relative_to(x.box).slices)]
    func(part, cut(other, box), **kwargs)
    x.held, x.box = part, box
    return x


def _cat(func: Any, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    if dim not in (1, -4) or any(x.ndim != 5 for x in tensors):
        return NotImplemented
    box = _known(tensors)
    return LocalActivation(func([cut(x, box) for x in tensors], 1), box, tensors[0].shape[2:])


def _slice(
    func: Any, x: LocalActivation, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    if dim % x.ndim > 1:
        return NotImplemented
    return LocalActivation(func(x.held, dim, start, end, step), x.box, x.shape[2:])


def _flip(func: Any, x: LocalActivation, dims: Sequence[int]) -> Any:
    axes = [dim % x.ndim for dim in dims]
    if min(axes, default=2) < 2:
        return NotImplemented
    return LocalActivation(func(x.held, axes), mirrored(x.box, x.shape[2:], axes), x.shape[2:])


def _same(func: Any, x: LocalActivation, *args: Any, **kwargs: Any) -> Any:
    return LocalActivation(x.held, x.box, x.shape[2:])


def _copied(func: Any, x: LocalActivation, *args: Any, **kwargs: Any) -> Any:
    dtype = kwargs.get("dtype")
    return LocalActivation(x.held.clone() if dtype is None else x.held.to(dtype, copy=True), x.box, x.shape[2:])


RULES: dict[Any, Rule] = {
    _aten.cat.default: _cat,
    _aten.slice.Tensor: _slice,
    _aten.flip.default: _flip,
    _aten.add_.Tensor: _add_in_place,
    **rules_that_keep_values(_same, _copied),
    **dict.fromkeys(
        (
            _aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.add.Scalar, _aten.sub.Scalar,
            _aten.mul.Scalar, _aten.div.Scalar, _aten.neg.default, _aten.relu.default, _aten.leaky_relu.default,
            _aten.elu.default, _aten.gelu.default, _aten.silu.default, _aten.softplus.default, _aten.tanh.default,
            _aten.sigmoid.default, _aten.hardtanh.default, _aten.hardswish.default, _aten.hardsigmoid.default,
            _aten.mish.default, _aten.threshold.default,
        ),
        pointwise,
    ),
    **dict.fromkeys(
        (
            _aten.relu_.default, _aten.leaky_relu_.default, _aten.elu_.default, _aten.silu_.default,
            _aten.hardtanh_.default, _aten.tanh_.default, _aten.sigmoid_.default, _aten.hardswish_.default,
            _aten.threshold_.default, _aten.mul_.Tensor, _aten.mul_.Scalar,
        ),
        in_place,
    ),
}  # fmt: skip
"""Operations with a rule of their own. Any other gets ordinary tensors."""
