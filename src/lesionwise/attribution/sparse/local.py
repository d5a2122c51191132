"""Tensors that know the box outside of which nothing matters, so that explaining a lesion costs what a lesion costs.

The derivative of a lesion's target starts on a few voxels of the logits and spreads by one kernel per layer. Ordinary
automatic differentiation multiplies zeros everywhere else. A `LocalCotangent` is a tensor of the ordinary shape that
holds only the box that can be nonzero, and as many cotangents as wanted behind one graph; a `LocalActivation` holds only
the box of a layer's output that those cotangents ever ask for. PyTorch's own autograd engine carries both through the
graph. Boxes follow from the geometry of the layers, never from values. An operation that is not known gets ordinary
dense tensors, so that the result is always that of ordinary automatic differentiation.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from lesionwise.attribution.sparse.convolutions import Convolutions
from lesionwise.geometry.box import Box

NoteFn = Callable[[Tensor, Tensor, Box], None]
"""Told (input, second operand, box of the output that matters) of every layer that the cotangents come through."""
Rule = Callable[..., Any]
"""Called with the operation and its arguments; returns NotImplemented for what it does not cover."""

COTANGENT_RULES: dict[Any, Rule] = {}
ACTIVATION_RULES: dict[Any, Rule] = {}


class LocalTensor(torch.Tensor):
    """A tensor of shape (items, channels, i, j, k) of which only `box` is held."""

    held: Tensor
    box: Box | None

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        back = any(issubclass(kind, LocalCotangent) for kind in types)
        rule = (COTANGENT_RULES if back else ACTIVATION_RULES).get(func)
        if rule is not None:
            found = rule(func, *args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        if func._schema.is_mutable:
            raise NotImplementedError(f"{func} writes into a tensor that is held in part.")
        return (_densely if back else _whole)(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({tuple(self.shape)} on {self.box})"


class LocalActivation(LocalTensor):
    """Values known on `box`, `held` being (items, channels, *box); what lies beyond is never asked for, and reads as 0."""

    box: Box

    @staticmethod
    def __new__(cls, held: Tensor, box: Box, size: Sequence[int]) -> "LocalActivation":
        shape = (*held.shape[:2], *size)
        made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=held.dtype, device=held.device)
        made.held, made.box = held, box
        return made

    def dense(self) -> Tensor:
        """As an ordinary tensor."""
        return window(self.held, self.box.start, (0, 0, 0), self.shape[2:])


class LocalCotangent(LocalTensor):
    """`count` tensors of shape `shape`, zero outside `box`: `held` is (count * items, channels, *box).

    `box` is None where the shape is not that of a layer; then `held` is (count, *shape). `note_fn` hears which box of
    which layer's output matters.
    """

    note_fn: "NoteFn | None"
    convolutions: Convolutions

    @staticmethod
    def __new__(
        cls,
        held: Tensor,
        box: Box | None,
        shape: Sequence[int],
        note_fn: "NoteFn | None" = None,
        convolutions: Convolutions | None = None,
    ) -> "LocalCotangent":
        made = torch.Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=held.dtype, device=held.device)
        made.held, made.box, made.note_fn = held, box, note_fn
        made.convolutions = convolutions or Convolutions()
        return made

    def follow(self, held: Tensor, box: Box | None, shape: Sequence[int]) -> "LocalCotangent":
        """The next cotangent on the way back."""
        return LocalCotangent(held, box, shape, self.note_fn, self.convolutions)

    @property
    def count(self) -> int:
        """Number of cotangents."""
        return len(self.held) if self.box is None else len(self.held) // max(self.shape[0], 1)

    def dense(self, index: int) -> Tensor:
        """One of the cotangents as an ordinary tensor."""
        if self.box is None:
            return self.held[index]
        own = self.held[index * self.shape[0] : (index + 1) * self.shape[0]]
        return window(own, self.box.start, (0, 0, 0), self.shape[2:])


def cut(x: Tensor, box: Box) -> Tensor:
    """An activation (items, channels, i, j, k) on a box; zeros where it is not known."""
    if isinstance(x, LocalActivation):
        return window(x.held, x.box.start, box.start, box.stop)
    return x[(..., *box.slices)]


def window(x: Tensor, origin: Sequence[int], start: Sequence[int], stop: Sequence[int]) -> Tensor:
    """`x`, whose first voxel lies at `origin`, from `start` to `stop`, with zeros beyond it."""
    shape = x.shape[-3:]
    widths: list[int] = []
    for a in (2, 1, 0):
        widths += [origin[a] - start[a], stop[a] - origin[a] - shape[a]]
    if max(widths) > 0:
        return torch.nn.functional.pad(x, widths)
    if not any(widths):
        return x
    keep = [slice(b - o, e - o) for o, b, e in zip(origin, start, stop, strict=True)]
    return x[..., keep[0], keep[1], keep[2]]


def mirrored(box: Box, size: Sequence[int], axes: Sequence[int]) -> Box:
    """Where a box of a tensor (items, channels, *size) lies after a flip along `axes` of that tensor."""
    start, stop = list(box.start), list(box.stop)
    for axis in (dim - 2 for dim in axes):
        start[axis], stop[axis] = size[axis] - box.stop[axis], size[axis] - box.start[axis]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


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


def _whole(func: Any, args: tuple, kwargs: dict) -> Any:
    """An operation on activations without a rule: on ordinary tensors."""
    plain_args, plain_kwargs = tree_map_only(LocalActivation, LocalActivation.dense, (args, kwargs))
    return func(*plain_args, **plain_kwargs)


def _densely(func: Any, args: tuple, kwargs: dict) -> Any:
    """An operation on cotangents without a rule: once per cotangent, on ordinary tensors."""
    args, kwargs = tree_map_only(LocalActivation, LocalActivation.dense, (args, kwargs))
    first = next(x for x in tree_leaves((args, kwargs)) if isinstance(x, LocalCotangent))
    results = []
    for k in range(max(first.count, 1)):  # without copies the shape of the result is still asked for
        plain_args, plain_kwargs = tree_map_only(LocalCotangent, partial(_dense_of, index=k), (args, kwargs))
        results.append(func(*plain_args, **plain_kwargs))
    if isinstance(results[0], (tuple, list)):
        return type(results[0])(_stacked([r[n] for r in results], first) for n in range(len(results[0])))
    return _stacked(results, first)


def _dense_of(x: LocalCotangent, *, index: int) -> Tensor:
    return x.dense(index) if x.count else x.held.new_zeros(x.shape)


def _stacked(values: list, before: LocalCotangent) -> Any:
    first = values[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return first
    if first.ndim == 5:
        held = torch.cat(values)[: before.count * len(first)]
        return before.follow(held, Box.whole(tuple(first.shape[2:])), first.shape)  # type: ignore[arg-type]
    return before.follow(torch.stack(values)[: before.count], None, first.shape)
