"""The picture by which a person sees whether a scan was prepared well."""

import textwrap
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.geometry.box import Box
from lesionwise.geometry.grids import reorientation
from lesionwise.io.files import write_whole
from lesionwise.prepare.scan import Prepared
from lesionwise.types import ScalarArray

AXIAL = (0.18, 0.34, 0.5, 0.66, 0.82)
"""Places of the axial planes, as shares of the brain's height."""

MARGIN_MM = 25.0
"""How much around the brain is shown."""

BRAIN, EDGES = "#d55e00", "#56b4e9"
"""Colours of the brain mask's outline and of the fixed channel's outline drawn on the others."""


def quality_figure(prepared: Prepared, path: Path, *, title: str) -> Path:
    """Draws a scan as PNG: every channel before and after in seven planes, with the brain's outline.

    In the rows of a moved channel the dashed line is the fixed channel's own tissue border: it follows the image where
    the alignment is right. Radiological convention (the patient's left is on the right).
    """
    rows = _rows(prepared)
    upright = reorientation(prepared.image.affine, prepared.image.shape, axes="RAS")
    sizes = [voxel_sizes_mm(prepared.image.affine)[axis] for axis in upright.permutation]

    def turned(data: np.ndarray) -> np.ndarray:
        return upright.forward(torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))).numpy()

    brain = turned(prepared.brain) > 0.5
    border = turned(prepared.image.channel(prepared.fixed))
    view = _view(brain, sizes)
    brain, border = brain[view], border[view]
    planes = _planes(brain)
    doubts = [doubt.sentence for doubt in prepared.quality.doubts]
    text = "\n".join(textwrap.fill(line, 150) for line in [*prepared.steps, *(f"Doubt: {line}" for line in doubts)])
    figure = Figure(figsize=(14, 2.2 * len(rows) + 0.25 * (text.count("\n") + 3)), facecolor="black")
    axes = figure.subplots(len(rows), len(planes), squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    for number, (label, data, moved) in enumerate(rows):
        image = turned(data)[view]
        top = float(np.percentile(image[brain], 99.5)) if brain.any() else float(image.max())
        for column, (axis, place) in enumerate(planes):
            ax = axes[number, column]
            _slice(ax, image, axis, place, sizes, top=top)
            _outline(ax, brain.astype(np.float32), axis, place, sizes, 0.5, BRAIN, "solid")
            if moved:
                level = 0.5 * float(np.median(border[brain]))
                _outline(ax, border, axis, place, sizes, level, EDGES, "dashed")
        axes[number, 0].text(0.01, 0.02, "R", color="white", fontsize=7, transform=axes[number, 0].transAxes)
        axes[number, 0].text(
            0.02, 0.97, label, color="white", va="top", fontsize=9, transform=axes[number, 0].transAxes
        )
    figure.subplots_adjust(left=0.005, right=0.995, top=0.96, bottom=0.02 + 0.045 * (text.count("\n") + 1) / len(rows))
    figure.suptitle(title, color="white", fontsize=11, y=0.995)
    figure.text(0.01, 0.01, text, color="#ffb000" if doubts else "white", fontsize=8, va="bottom")
    with write_whole(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png", facecolor="black", metadata={"Software": None})
    return path


def _rows(prepared: Prepared) -> list[tuple[str, ScalarArray, bool]]:
    """Label, image and whether it was moved, from what came in to what goes on."""
    rows = []
    for channel in prepared.image.channels:
        moved = channel in prepared.motions
        if channel in prepared.before:
            label = f"{channel}, by the headers" if moved else f"{channel}, as it came"
            rows.append((label, prepared.before[channel], moved))
        if moved:
            rows.append((f"{channel}, aligned", prepared.after[channel], True))
        rows.append((f"{channel}, prepared", prepared.image.channel(channel), False))
    return rows


def _view(brain: np.ndarray, sizes: list[float]) -> tuple[slice, ...]:
    """The part of the grid that is shown: the brain and what surrounds it."""
    if not brain.any():
        return tuple(slice(0, n) for n in brain.shape)
    box = Box.around(np.argwhere(brain))
    margins = [round(MARGIN_MM / size) for size in sizes]
    return tuple(
        slice(max(0, a - m), min(n, b + m))
        for a, b, m, n in zip(box.start, box.stop, margins, brain.shape, strict=True)
    )


def _planes(brain: np.ndarray) -> list[tuple[int, int]]:
    """(axis, voxel) of the planes: axial ones through the brain's height, a coronal and a sagittal one off the middle."""
    spans = [np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if any(len(span) == 0 for span in spans):
        spans = [np.arange(n) for n in brain.shape]

    def at(axis: int, share: float) -> int:
        return round(spans[axis][0] + share * (spans[axis][-1] - spans[axis][0]))

    return [*((2, at(2, share)) for share in AXIAL), (1, at(1, 0.5)), (0, at(0, 0.42))]


def _plane(data: np.ndarray, axis: int, place: int) -> np.ndarray:
    """Rows up, columns across; the patient's left to the right."""
    plane = np.take(data, place, axis=axis).T
    return plane[:, ::-1] if axis > 0 else plane


def _extent(data: np.ndarray, axis: int, sizes: list[float]) -> tuple[float, float, float, float]:
    across, up = [a for a in range(3) if a != axis]
    return (0.0, data.shape[across] * sizes[across], 0.0, data.shape[up] * sizes[up])


def _slice(ax: Axes, data: np.ndarray, axis: int, place: int, sizes: list[float], *, top: float) -> None:
    extent = _extent(data, axis, sizes)
    ax.imshow(_plane(data, axis, place), cmap="gray", vmin=0, vmax=1.15 * top, origin="lower", extent=extent)
    ax.set_axis_off()


def _outline(
    ax: Axes, data: np.ndarray, axis: int, place: int, sizes: list[float], level: float, colour: str, style: str
) -> None:
    plane = _plane(data, axis, place)
    if not plane.min() < level < plane.max():
        return
    left, right, low, high = _extent(data, axis, sizes)
    rows, columns = plane.shape
    x = (np.arange(columns) + 0.5) * (right - left) / columns
    y = (np.arange(rows) + 0.5) * (high - low) / rows
    ax.contour(x, y, plane, [level], colors=[colour], linewidths=0.7, linestyles=style)
