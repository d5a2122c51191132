"""Sliding windows: where they lie, how their logits fuse, and which of them meet a set of voxels.

z[v] = sum_w a_w[v] z_w[v] / sum_w a_w[v] with importance a_w (METHOD section 1); the geometry is MONAI's or nnU-Net's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lesionwise.errors import InputError
from lesionwise.geometry.box import Box
from lesionwise.kernels import QuickConvolutions
from lesionwise.network import frozen, full_resolution
from lesionwise.segmenter import Placement, Spec
from lesionwise.types import Shape

Network = Callable[[Tensor], Tensor]

MONAI_LEAST = 1e-3
"""MONAI's Gaussian importance is at least this, or its own smallest value where that is larger."""


@dataclass(frozen=True, eq=False)
class WindowGrid:
    """All windows over one volume.

    `shape` is the volume's grid. A volume smaller than the window is padded with 0 on both sides, as MONAI and nnU-Net
    do; `boxes` are in padded coordinates and `offset` is where the volume starts there. `importance` (window) is a_w,
    the same for every window. The last `alone` boxes are not fused with others: each stands for itself.
    """

    shape: Shape
    window: Shape
    boxes: tuple[Box, ...]
    offset: Shape
    padded_shape: Shape
    importance: Float[Tensor, "i j k"]
    alone: int = 0

    @classmethod
    def of(cls, spec: Spec, shape: Shape) -> "WindowGrid":
        """The windows that `spec` asks for on a volume of this shape."""
        return cls.over(
            shape,
            window=spec.window,
            overlap=spec.overlap,
            blending=spec.blending,
            sigma_scale=spec.sigma_scale,
            placement=spec.placement,
        )

    @classmethod
    def over(
        cls,
        shape: Shape,
        *,
        window: Shape,
        overlap: float,
        blending: Literal["gaussian", "constant"] = "gaussian",
        sigma_scale: float = 0.125,
        placement: Literal["monai", "nnunet"] = "monai",
    ) -> "WindowGrid":
        """The windows of a given size and overlap; `placement` says whose rule sets their starts."""
        if any(n < 1 for n in shape):
            raise InputError(f"A volume needs at least one voxel along every axis, found {shape}.")
        missing = [max(w - n, 0) for w, n in zip(window, shape, strict=True)]
        padded = (shape[0] + missing[0], shape[1] + missing[1], shape[2] + missing[2])
        offset = (missing[0] // 2, missing[1] // 2, missing[2] // 2)
        starts = (
            monai_starts(padded, window, overlap) if placement == "monai" else nnunet_starts(padded, window, overlap)
        )
        boxes = tuple(Box(s, (s[0] + window[0], s[1] + window[1], s[2] + window[2])) for s in starts)
        return cls(shape, window, boxes, offset, padded, importance_map(window, blending, sigma_scale, placement))

    def pad(self, x: Float[Tensor, "*lead i j k"]) -> Float[Tensor, "*lead i2 j2 k2"]:
        """Adds the zeros around a volume smaller than the window."""
        if self.padded_shape == self.shape:
            return x
        widths: list[int] = []
        for axis in (2, 1, 0):
            widths += [self.offset[axis], self.padded_shape[axis] - self.shape[axis] - self.offset[axis]]
        return torch.nn.functional.pad(x, widths)

    def unpad(self, y: Float[Tensor, "*lead i2 j2 k2"]) -> Float[Tensor, "*lead i j k"]:
        """Takes the padding off again."""
        return y[(..., *Box.whole(self.shape).shifted(self.offset).slices)]

    @cached_property
    def total_importance(self) -> Float[Tensor, "i2 j2 k2"]:
        """sum_w a_w[v] on the padded grid, float64."""
        total = torch.zeros(self.padded_shape, dtype=torch.float64)
        for box in self.boxes[: len(self.boxes) - self.alone]:
            total[box.slices] += self.importance.double()
        return total

    def weight(self, index: int) -> Float[Tensor, "i j k"]:
        """a_w[v] / sum_w a_w[v] within window `index`, float64."""
        return self.share(index, Box.whole(self.window))

    def share(self, index: int, local: Box) -> Float[Tensor, "i j k"]:
        """`weight` on a box of the window (window coordinates); 1 in a window that stands alone."""
        if index >= len(self.boxes) - self.alone:
            return torch.ones(local.shape, dtype=torch.float64)
        whole = local.shifted(self.boxes[index].start)
        return self.importance[local.slices].double() / self.total_importance[whole.slices]

    def fuse(
        self,
        fused: Float[Tensor, "*lead i j k"],
        region: Box,
        index: int,
        logits: Float[Tensor, "*lead i2 j2 k2"],
    ) -> None:
        """Adds what the logits of window `index` say of `region` (unpadded coordinates) to `fused`, in place.

        Once all windows that meet the region are added, `fused` is what `predict` gives there.
        """
        moved, seen = region.shifted(self.offset), self.boxes[index]
        shared = moved.intersection(seen)
        if shared.is_empty:
            return
        local = shared.relative_to(seen)
        share = self.share(index, local).to(fused)
        fused[(..., *shared.relative_to(moved).slices)] += logits[(..., *local.slices)] * share

    def with_windows_around(self, regions: Sequence[Box]) -> "WindowGrid":
        """The same windows, and one more around each region (unpadded coordinates), within the volume, that stands alone."""
        added = []
        for region in regions:
            moved = region.shifted(self.offset)
            start = [
                min(max((a + b - w) // 2, 0), n - w)
                for a, b, w, n in zip(moved.start, moved.stop, self.window, self.padded_shape, strict=True)
            ]
            stop = [a + w for a, w in zip(start, self.window, strict=True)]
            added.append(Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))
        return replace(self, boxes=(*self.boxes, *added), alone=self.alone + len(added))

    def meeting(self, region: Box) -> list[int]:
        """Indices of the windows that share a voxel with `region` (in unpadded coordinates)."""
        moved = region.shifted(self.offset)
        return [n for n, box in enumerate(self.boxes) if not box.intersection(moved).is_empty]

    def meeting_voxels(self, voxels: np.ndarray) -> list[int]:
        """Indices of the windows that hold at least one of the voxels (n, 3), in unpadded coordinates."""
        moved = np.asarray(voxels) + np.asarray(self.offset)
        return [
            n
            for n, box in enumerate(self.boxes)
            if np.any(np.all((moved >= np.asarray(box.start)) & (moved < np.asarray(box.stop)), axis=1))
        ]


def predict(
    network: Network,
    x: Float[Tensor, "1 channels i j k"],
    grid: WindowGrid,
    *,
    batch: int = 1,
    only: Sequence[int] | None = None,
    progress_fn: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "classes i j k"]:
    """Fused logits of the whole volume, without gradient; a module is asked in evaluation mode and left as it was.

    `only` restricts the sum to some windows: voxels outside them come out as 0. `progress_fn(done, total)` is called
    after every batch of windows.
    """
    padded = grid.pad(x)
    chosen = list(range(len(grid.boxes))) if only is None else list(only)
    total = grid.total_importance.to(x.device) if only is None else _partial_importance(grid, chosen).to(x.device)
    importance = grid.importance.to(device=x.device, dtype=x.dtype)
    fused: Tensor | None = None
    held = frozen(network) if isinstance(network, torch.nn.Module) else nullcontext()
    with held, torch.no_grad(), QuickConvolutions():
        for done, members in enumerate(_batches(chosen, batch)):
            stack = torch.cat([padded[(..., *grid.boxes[n].slices)] for n in members])
            logits = full_resolution(network(stack), stack.shape[2:])
            if fused is None:
                fused = x.new_zeros((logits.shape[1], *grid.padded_shape))
            for n, window_logits in zip(members, logits, strict=True):
                fused[(slice(None), *grid.boxes[n].slices)] += window_logits * importance
            if progress_fn is not None:
                progress_fn(min((done + 1) * batch, len(chosen)), len(chosen))
    if fused is None:
        raise InputError("At least one window is needed to predict, found none.")
    fused /= torch.where(total > 0, total, torch.ones_like(total)).to(x.dtype)
    return grid.unpad(fused)


def probability(logits: Float[Tensor, " classes *grid"], spec: Spec) -> Float[Tensor, " *grid"]:
    """Lesion probability from fused logits, by the spec's activation; the mean over an ensemble's members.

    Of several lesion classes, that of any: the sum under a softmax, 1 - product of (1 - p_k) under sigmoids.
    """
    if spec.members > 1:
        alone = replace(spec, members=1)
        return torch.stack([probability(part, alone) for part in logits.chunk(spec.members)]).mean(dim=0)
    lesion = list(spec.lesion_classes)
    if spec.activation == "softmax":
        return torch.softmax(logits, dim=0)[lesion].sum(dim=0)
    each = torch.sigmoid(logits[lesion])
    return each[0] if len(lesion) == 1 else 1 - (1 - each).prod(dim=0)


def probability_on_scan(
    logits: Float[Tensor, "classes i j k"], placement: Placement, spec: Spec
) -> Float[Tensor, "i2 j2 k2"]:
    """Lesion probability on the scan's grid from fused logits on the network's; 0 where the network did not look.

    A model that crops the scan says nothing about the rest, which its own software takes to be background.
    """
    on_scan = probability(placement.to_scan.forward(logits), spec)
    seen = placement.to_scan.forward(torch.ones_like(logits[0])) > 0.5
    return torch.where(seen, on_scan, torch.zeros_like(on_scan))


def importance_map(
    window: Shape, blending: str, sigma_scale: float, placement: str = "monai"
) -> Float[Tensor, "i j k"]:
    """a_w, float32, never 0: MONAI's Gaussian is centred between voxels, nnU-Net's on voxel `n // 2`."""
    if placement == "nnunet" and blending == "gaussian":
        impulse = np.zeros(window)
        impulse[tuple(n // 2 for n in window)] = 1
        smooth = gaussian_filter(impulse, [n * sigma_scale for n in window], 0, mode="constant", cval=0)
        smooth /= smooth.max()
        smooth[smooth == 0] = smooth[smooth > 0].min()
        return torch.from_numpy(smooth).float()
    if blending != "gaussian":
        return torch.ones(window)
    along: list[Tensor] = []
    for n in window:
        x = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        along.append(torch.exp(x**2 / (-2 * (n * sigma_scale) ** 2)))
    product = (along[0][:, None] * along[1])[..., None] * along[2]
    return product.clamp(min=max(float(product.min()), MONAI_LEAST))


def monai_starts(shape: Shape, window: Shape, overlap: float) -> list[Shape]:
    """Window starts of MONAI's `sliding_window_inference`, in its order."""
    axes = []
    for n, w in zip(shape, window, strict=True):
        interval = max(int(w * (1 - overlap)), 1)
        steps = -((w - n) // interval)
        axes.append([min(step * interval, n - w) for step in range(steps + 1)])
    return [(a, b, c) for a in axes[0] for b in axes[1] for c in axes[2]]


def nnunet_starts(shape: Shape, window: Shape, overlap: float) -> list[Shape]:
    """Window starts of nnU-Net v2: evenly spread, at most `window * (1 - overlap)` apart."""
    axes = []
    for n, w in zip(shape, window, strict=True):
        steps = int(np.ceil((n - w) / (w * (1 - overlap)))) + 1
        spread = (n - w) / (steps - 1) if steps > 1 else 0.0
        # a window of one voxel (2-D networks, slice by slice) would otherwise come twice at half steps
        axes.append(list(dict.fromkeys(round(spread * step) for step in range(steps))))
    return [(a, b, c) for a in axes[0] for b in axes[1] for c in axes[2]]


def _partial_importance(grid: WindowGrid, chosen: Sequence[int]) -> Tensor:
    total = torch.zeros(grid.padded_shape, dtype=torch.float64)
    for n in chosen:
        total[grid.boxes[n].slices] += grid.importance.double()
    return total


def _batches(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
