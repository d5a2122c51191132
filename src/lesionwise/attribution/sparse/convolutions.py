"""Convolutions of the small boxes that a lesion needs, by the way that suits their size.

A library's convolution rearranges the weights at every call, which costs more than the arithmetic where a box has a few
voxels and a layer millions of weights. Three ways, equal up to rounding: "plain" (the library's, channels first),
"channels-last" (the library's, other layout), "matrix" (one product with weights that were laid out once, and a shift
and add, or a gathering, of the kernel's places). Which one is taken follows from the layer and the size of the box alone
(`scattering_way`, `gathering_way`; thresholds from `python -m benchmarks.ways`), so that equal input gives equal bytes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import scipy
import torch
from torch import Tensor

_aten = torch.ops.aten

Way = Literal["plain", "channels-last", "matrix"]
_FEW_VOXELS = 512  # of all items of a box, below which laying out weights anew costs more than the arithmetic
_HARDLY_ANY_VOXELS = 64
_FEW_CHANNELS = 4  # of an image, for which libraries have no fast kernels
_MANY_WEIGHTS = 1 << 20
_MOST_COLUMNS = 1 << 20  # values of a product's columns at a time, so that they stay in the processor's cache
_KEPT_INDICES = 32


@dataclass(eq=False)
class Convolutions:
    """Convolutions without padding by a network whose weights do not change in the meantime.

    `addresses` are those of its parameters: other weights, made anew at every pass, are not worth laying out and go the
    plain way. `only` fixes the way where there is a choice; otherwise the layer and the box decide.
    """

    addresses: frozenset[int] = frozenset()
    only: Way | None = None
    packed: dict[tuple, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: torch.nn.Module, *, only: Way | None = None) -> "Convolutions":
        """Those of a network."""
        return cls(frozenset(parameter.data_ptr() for parameter in network.parameters()), only)

    def scatter(self, x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
        """Transposed convolution: voxel i reaches i * stride .. i * stride + dilation * (kernel - 1).

        `x` is (batch, channels, i, j, k), `weight` (channels, outputs per group, *kernel).
        """
        voxels = len(x) * x.shape[2:].numel()
        if voxels == 0:
            return x.new_zeros(
                (len(x), weight.shape[1] * groups, *_reach(x.shape[2:], weight.shape[2:], stride, dilation))
            )
        return self._by(
            scattering_way(weight, voxels), x, weight, groups,
            lambda x, weight: _scatter(x, weight, stride, dilation, groups),
            lambda: self._scattered(x, weight, stride, dilation),
        )  # fmt: skip

    def gather(self, x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
        """Convolution: output o reads o * stride .. o * stride + dilation * (kernel - 1).

        `x` is (batch, channels, i, j, k), `weight` (outputs, channels per group, *kernel).
        """
        shape = _outputs(x.shape[2:], weight, stride, dilation)
        voxels = len(x) * math.prod(shape)
        if voxels == 0:
            return x.new_zeros((len(x), len(weight), *shape))
        return self._by(
            gathering_way(weight, voxels), x, weight, groups,
            lambda x, weight: _gather(x, weight, stride, dilation, groups),
            lambda: self._gathered(x, weight, stride, dilation),
        )  # fmt: skip

    def _by(
        self, way: Way, x: Tensor, weight: Tensor, groups: int,
        library_fn: Callable[[Tensor, Tensor], Tensor], matrix_fn: Callable[[], Tensor],
    ) -> Tensor:  # fmt: skip
        """What one of the ways returns, with the channels last in memory where there is a choice."""
        if not has_ways(x, weight, groups) or weight.data_ptr() not in self.addresses:
            return library_fn(_plain(x), weight)
        way = self.only or way
        if way == "plain":
            return _last(library_fn(_plain(x), weight))
        return _last(library_fn(_last(x), self._last(weight)) if way == "channels-last" else matrix_fn())

    def _last(self, weight: Tensor) -> Tensor:
        return self._kept("last", weight, lambda: _last(weight))

    def _kept(self, what: str, weight: Tensor, make_fn: Callable[[], Any]) -> Any:
        """A parameter in another layout."""
        key = (what, weight.data_ptr(), weight.shape)
        if key not in self.packed:
            self.packed[key] = make_fn()
        return self.packed[key]

    def _scattered(self, x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
        """One product of voxels with all places of the kernel, which are then added up where they belong."""
        batch, channels, depth = x.shape[:3]
        outputs, kernel = weight.shape[1], weight.shape[2:]
        matrix = self._kept("scatter", weight, lambda: _packed(weight.permute(2, 3, 4, 1, 0).flatten(0, 3)))
        rows = x.permute(0, 2, 3, 4, 1)
        plane = x.shape[3:].numel() * kernel.numel() * outputs
        step = min(max(_MOST_COLUMNS // plane, 1), depth)
        items = max(_MOST_COLUMNS // (plane * depth), 1) if step == depth else 1
        reach = _reach(x.shape[2:], kernel, stride, dilation)
        if step == depth and items >= batch:
            columns = _product(rows.reshape(-1, channels), matrix).view(-1, outputs)
            return _added(columns, batch, x.shape[2:], kernel, stride, dilation).permute(0, 4, 1, 2, 3)
        out = x.new_zeros((batch, *reach, outputs))
        for item in range(0, batch, items):
            part, filled = out[item : item + items], 0
            for first in range(0, depth, step):
                own = rows[item : item + items, first : first + step]
                columns = _product(own.reshape(-1, channels), matrix).view(-1, outputs)
                block = _added(columns, len(own), own.shape[1:4], kernel, stride, dilation)
                start, stop = first * stride[0], first * stride[0] + block.shape[1]
                if filled > start:
                    part[:, start:filled] += block[:, : filled - start]
                part[:, max(filled, start) : stop] = block[:, max(filled - start, 0) :]
                filled = stop
        return out.permute(0, 4, 1, 2, 3)

    def _gathered(self, x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
        """What each output reads, side by side, times the weights."""
        batch, channels = x.shape[:2]
        outputs, kernel = len(weight), weight.shape[2:]
        matrix = self._kept("gather", weight, lambda: _packed(weight.permute(0, 2, 3, 4, 1).flatten(1)))
        values, size = _last(x).permute(0, 2, 3, 4, 1), x.shape[2:]
        depth, *plane = _outputs(size, weight, stride, dilation)
        width = kernel.numel() * channels
        step = min(max(_MOST_COLUMNS // max(batch * math.prod(plane) * width, 1), 1), depth)
        parts = []
        for first in range(0, depth, step):
            count = min(step, depth - first)
            near = values[:, first * stride[0] :][:, : (count - 1) * stride[0] + dilation[0] * (kernel[0] - 1) + 1]
            reads = _reads(batch, (near.shape[1], *size[1:]), (count, *plane), tuple(kernel), (*stride,), (*dilation,))
            columns = _rows(near.reshape(-1, channels), reads).view(-1, width)
            parts.append(_product(columns, matrix).view(batch, count, *plane, outputs))
        return _joined(parts, 1).permute(0, 4, 1, 2, 3)


def scattering_way(weight: Tensor, voxels: int) -> Way:
    """How `voxels` (of all items) are spread by weights (channels, outputs per group, *kernel)."""
    small = voxels <= _FEW_VOXELS or weight.shape[1] <= _FEW_CHANNELS or weight.shape[2:].numel() == 1
    return "matrix" if small or weight.numel() >= _MANY_WEIGHTS else "channels-last"


def gathering_way(weight: Tensor, voxels: int) -> Way:
    """How `voxels` outputs (of all items) are gathered by weights (outputs, channels per group, *kernel)."""
    few = voxels <= (_FEW_VOXELS if weight.numel() >= _MANY_WEIGHTS else _HARDLY_ANY_VOXELS)
    return "matrix" if few or weight.shape[2:].numel() == 1 else "channels-last"


def has_ways(x: Tensor, weight: Tensor, groups: int = 1) -> bool:
    """True if there is a choice: single precision on a processor, one group."""
    return x.device.type == "cpu" and groups == 1 and x.dtype == weight.dtype == torch.float32


def _scatter(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
    """Asked for as the backward pass of a convolution, for which there are faster kernels than for its transpose."""
    reach = _reach(x.shape[2:], weight.shape[2:], stride, dilation)
    unread = x.new_empty((len(x), weight.shape[1] * groups, *reach))
    found = _aten.convolution_backward.default(
        x, unread, weight, None, stride, [0] * 3, dilation, False, [0] * 3, groups, [True, False, False]
    )
    return found[0]


def _gather(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
    return _aten.convolution.default(x, weight, None, stride, [0] * 3, dilation, False, [0] * 3, groups)


def _plain(x: Tensor) -> Tensor:
    return x.contiguous()


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def _reach(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    return [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)]


def _outputs(size: Sequence[int], weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    kernel = weight.shape[2:]
    return [max((n - d * (k - 1) - 1) // s + 1, 0) for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)]


def _added(
    columns: Tensor,
    batch: int,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """(batch, *reach, channels): every voxel's places of the kernel (rows of `columns`), added where they reach."""
    order, ends = _bags(batch, tuple(size), tuple(kernel), tuple(stride), tuple(dilation))
    total = torch.nn.functional.embedding_bag(order, columns, ends, mode="sum", include_last_offset=True)
    return total.view(batch, *_reach(size, kernel, stride, dilation), columns.shape[1])


@lru_cache(maxsize=_KEPT_INDICES)
def _bags(
    batch: int, size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Which rows (voxel by voxel, then place by place) reach each output, and where each output's rows begin."""
    reach = _reach(size, kernel, stride, dilation)
    reached = _pairs(size, kernel, stride, dilation, reach).numpy()
    count = len(reached)
    # one entry per column; turning such a matrix around is a sort in linear time
    columns = (np.ones(count, dtype=np.int8), reached.astype(np.int32), np.arange(count + 1, dtype=np.int32))
    sorted_ = scipy.sparse.csc_array(columns, shape=(math.prod(reach), count)).tocsr()
    order, ends = torch.from_numpy(sorted_.indices), torch.from_numpy(sorted_.indptr)
    if batch > 1:
        items = torch.arange(batch, dtype=torch.int32)[:, None] * count
        order, ends = (items + order).flatten(), torch.cat([ends[:1], (items + ends[1:]).flatten()])
    return order.int(), ends.int()


@lru_cache(maxsize=_KEPT_INDICES)
def _reads(
    batch: int, size: tuple[int, ...], outputs: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:  # fmt: skip
    """Which voxels each output reads, place by place."""
    read = _pairs(outputs, kernel, stride, dilation, size)
    return (torch.arange(batch)[:, None] * math.prod(size) + read).flatten().int()


def _pairs(
    coarse: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], fine: Sequence[int]
) -> Tensor:
    """Where on the fine grid each coarse voxel meets each place of the kernel; places vary fastest."""
    at = [
        (torch.arange(n) * s)[:, None] + torch.arange(k) * d
        for n, k, s, d in zip(coarse, kernel, stride, dilation, strict=True)
    ]
    plane = at[0][:, None, None, :, None, None] * fine[1] + at[1][None, :, None, None, :, None]
    return (plane * fine[2] + at[2][None, None, :, None, None, :]).flatten()


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of (voxels, channels). Two channels move as one number of twice the length, which is far faster."""
    if values.shape[1] == 2:
        return values.view(torch.int64)[:, 0].index_select(0, index).view(torch.float32)
    return values.index_select(0, index)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


@lru_cache(maxsize=1)
def has_packed_products() -> bool:
    """True if this build of PyTorch lays out weights for oneDNN and multiplies by them; both are private functions."""
    try:
        rows, weight = torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        return torch.equal(_onednn_product(rows, torch.ops.mkldnn._reorder_linear_weight.default(weight)), weight.T)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False


def _packed(matrix: Tensor) -> tuple[Tensor, bool]:
    """(outputs, inputs) as the library likes it best, and whether that is a layout of its own."""
    matrix = matrix.contiguous()
    if not has_packed_products():
        return matrix, False
    return torch.ops.mkldnn._reorder_linear_weight.default(matrix), True


def _product(rows: Tensor, matrix: tuple[Tensor, bool]) -> Tensor:
    weight, own_layout = matrix
    return _onednn_product(rows, weight) if own_layout else torch.nn.functional.linear(rows, weight)


def _onednn_product(rows: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(rows, weight, None, "none", [], "")
