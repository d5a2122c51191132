"""Families of changed scans, each with one dial: how strong the lesion is, how large, what lies around it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Tensor

from lesionwise.asking.rerun import around
from lesionwise.geometry.box import Box
from lesionwise.why.question import Question

STRONGEST = 3.0
"""A missed lesion is amplified up to this many times its own contrast."""
LARGEST_MM = 5.0
"""A missed lesion is grown by up to this."""
RIM_MM = 3.0


@dataclass(frozen=True, eq=False)
class Dial:
    """A way to change the scan, from `start` (the scan as it is) to `end`; `make_fn(value)` gives the changed input.

    Whatever the value, only `box` of the probe's box is changed.
    """

    name: str
    start: float
    end: float
    make_fn: Callable[[float], Tensor]
    box: Box


def contrast_dial(question: Question, channels: tuple[str, ...], *, found: bool, name: str) -> Dial:
    """Healthy tissue + t x (lesion - healthy tissue) on some channels, from t = 1 down to 0 if found, up if missed.

    Other channels stay as they are.
    """
    shown = torch.tensor([channel in channels for channel in question.scan.channels]).reshape(-1, 1, 1, 1)
    box = question.filled_box
    inside = (slice(None), *box.slices)
    base = question.base[inside]
    difference = torch.where(shown, base - question.healthy[inside], 0.0)

    def make(t: float) -> Tensor:
        return _with(question.base, box, base + (t - 1.0) * difference)

    return Dial(name, 1.0, 0.0 if found else STRONGEST, make, box)


def size_dial(question: Question, *, found: bool) -> Dial:
    """The lesion's border moved inwards by mm, its blurred rim with it, if found; the lesion grown by mm if missed.

    What is left of a voxel's difference from healthy tissue falls from all to nothing over the width of the rim. Where
    the lesion grows, healthy tissue gets its mean difference; other lesions and what is no head stay.
    """
    return _shrinking(question) if found else _growing(question)


def _shrinking(question: Question) -> Dial:
    box = question.filled_box
    inside = (slice(None), *box.slices)
    distance, healthy = question.distance_mm[box.slices], question.healthy[inside]
    difference = question.base[inside] - healthy
    rim = float(distance[(difference != 0).any(dim=0)].max().clamp(min=0)) + 0.01
    deepest = float(-question.distance_mm[question.lesion].min())

    def edge(mm: float) -> Tensor:
        return (1 - (distance + mm) / rim).clamp(0, 1)

    def shrunk(mm: float) -> Tensor:
        left = torch.where(edge(0) > 0, edge(mm) / edge(0), 0.0)
        return _with(question.base, box, healthy + left.to(difference) * difference)

    return Dial("size", 0.0, deepest + rim, shrunk, box)


def _growing(question: Question) -> Dial:
    box = around(question.distance_mm <= LARGEST_MM)
    inside = (slice(None), *box.slices)
    distance, base = question.distance_mm[box.slices], question.base[inside]
    head = torch.from_numpy(question.probe.head[box.slices])
    larger = question.healthy[inside] + question.contrast.reshape(-1, 1, 1, 1)
    free = head & ~question.others[box.slices]

    def grown(mm: float) -> Tensor:
        ring = (distance > 0) & (distance <= mm) & free
        return _with(question.base, box, torch.where(ring, larger, base))

    return Dial("size", 0.0, LARGEST_MM, grown, box)


def _with(base: Tensor, box: Box, values: Tensor) -> Tensor:
    """The input with other values on a box."""
    changed = base.clone()
    changed[(slice(None), *box.slices)] = values
    return changed


def without_rim(question: Question) -> Tensor:
    """The 0-3 mm around the lesion replaced by healthy white matter; the lesion stays."""
    distance = question.distance_mm
    rim = (distance > 0) & (distance <= RIM_MM) & ~question.lesion & ~question.others
    rng = question.scan.rng(question.instance.label, 21)
    filled = question.probe.inpainted((rim | question.lesion).numpy(), rng=rng, grow_vox=0)
    return torch.where(rim, filled, question.base)


def without_neighbours(question: Question) -> Tensor | None:
    """All other lesions in sight replaced by healthy white matter; None if there are none."""
    if not bool(question.others.any()):
        return None
    others = torch.from_numpy(ndimage.binary_dilation(question.others.numpy())) & ~question.lesion
    return torch.where(others, question.scan.healed.within(question.probe.box).to(question.base), question.base)
