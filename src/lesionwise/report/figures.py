"""One lesion as a panel for print: three planes through the peak of each channel's map, outlines, colour bar with unit."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from lesionwise.charts.palette import outcome_style, signed_lut, signed_rgba
from lesionwise.errors import InputError
from lesionwise.io.derivative import ScanOutput
from lesionwise.io.files import write_whole
from lesionwise.report.limits import colour_limit, table_tops
from lesionwise.report.narrative import headline, number
from lesionwise.report.scene import Scene, scene_of
from lesionwise.saliency import SaliencyMap

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""Voxel axes across, up and through, on a right-anterior-superior grid."""

LETTERS = {0: ("L", "R"), 1: ("P", "A"), 2: ("I", "S")}
FORMATS = (".png", ".pdf", ".svg")


def lesion_figure(scan: ScanOutput, label: int, path: Path, *, fov_mm: float = 70.0, desc: str | None = None) -> Path:
    """Draws one lesion in radiological convention and returns the path; the suffix chooses PNG, PDF or SVG.

    Colours are those of the page: limits shared by all lesions of the scan, zero transparent. Raises InputError if the
    lesion is not in the table, has no map, or the suffix is another.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"Expected a picture ending in {', '.join(FORMATS)}, found {path.name}.")
    rows = scan.lesions[scan.lesions["lesion"] == label]
    if rows.empty:
        raise InputError(f"Expected a lesion of {scan.name.stem} (1 to {len(scan.lesions)}), found {label}.")
    scene = scene_of(scan)
    chosen = desc or (scene.descs[0] if scene.descs else "")
    saliency = scene.saliency(label, chosen)
    if saliency is None:
        raise InputError(f"Expected lesion {label} of {scan.name.stem} to be explained, but it has no map.")
    tops = table_tops(scene.lesions, scene.channels) if chosen == scene.descs[0] else []
    limit = colour_limit(tops or [float(np.abs(saliency.data).max(initial=0))])
    figure = _draw(scene, label, saliency, limit=limit, fov_mm=fov_mm, title=headline(rows.iloc[0].to_dict()))
    with write_whole(path) as temporary:
        # No date in the file: the same scan gives the same picture.
        stamp = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix.lower(), {})
        figure.savefig(temporary, dpi=300, format=path.suffix[1:].lower(), metadata=stamp)
    return path


def _draw(scene: Scene, label: int, saliency: SaliencyMap, *, limit: float, fov_mm: float, title: str) -> Figure:
    channels = saliency.channels
    peak = np.unravel_index(int(saliency.data.max(axis=0).argmax()), saliency.box.shape)
    voxel = tuple(int(a + b) for a, b in zip(peak, saliency.box.start, strict=True))
    height = 0.95 + 2.13 * len(channels)
    figure = Figure(figsize=(7.6, height))
    left, right, bottom, top = 0.035, 0.865, 0.30 / height, 1 - 0.62 / height
    grid = figure.add_gridspec(
        len(channels), 3, left=left, right=right, bottom=bottom, top=top, wspace=0.02, hspace=0.03
    )
    for row, channel in enumerate(channels):
        for column, plane in enumerate(PLANES):
            axes = figure.add_subplot(grid[row, column])
            _panel(axes, scene, label, saliency, channel, plane, voxel, limit=limit, fov_mm=fov_mm)
            if column == 0:
                axes.set_ylabel(channel, fontsize=9, labelpad=2)
            if row == 0:
                axes.set_title(plane, fontsize=9, pad=3)
    bar = figure.add_axes((0.885, bottom + 0.08 * (top - bottom), 0.018, 0.84 * (top - bottom)))
    lut = signed_lut().astype(float) / 255
    grey = lut[:, :3] * lut[:, 3:] + 0.36 * (1 - lut[:, 3:])
    mappable = ScalarMappable(Normalize(-limit, limit), ListedColormap(grey))
    colours = figure.colorbar(mappable, cax=bar, extend="both")
    colours.set_ticks([-limit, -limit / 2, 0, limit / 2, limit])
    colours.set_ticklabels([number(value, 2) for value in (-limit, -limit / 2, 0.0, limit / 2, limit)], fontsize=7)
    colours.set_label(saliency.units, fontsize=8)
    mm = scene.affine[:3, :3] @ voxel + scene.affine[:3, 3]
    place = ", ".join(number(round(float(value), 1), 4) for value in mm)
    figure.text(left, 1 - 0.19 / height, f"{scene.name.stem}, lesion {label}", fontsize=10, weight="bold", va="center")
    figure.text(left, 1 - 0.37 / height, title, fontsize=8, va="center")
    figure.text(
        left,
        0.12 / height,
        f"Planes through the map's peak at ({place}) mm. Radiological convention. Research use only.",
        fontsize=7,
        color="0.35",
        va="center",
    )
    return figure


def _panel(
    axes: Axes,
    scene: Scene,
    label: int,
    saliency: SaliencyMap,
    channel: str,
    plane: str,
    voxel: tuple[int, ...],
    *,
    limit: float,
    fov_mm: float,
) -> None:
    across, up, through = PLANES[plane]
    sizes = scene.voxel_sizes_mm
    cut: list[slice | int] = [slice(None)] * 3
    cut[through] = voxel[through]
    index = tuple(cut)
    width, height = scene.shape[across], scene.shape[up]
    extent = (-0.5 * sizes[across], (width - 0.5) * sizes[across], -0.5 * sizes[up], (height - 0.5) * sizes[up])
    axes.set_facecolor("black")
    if channel in scene.images:
        image = scene.images[channel]
        head = image[image != 0]
        low, high = np.percentile(head, [0.5, 99.8]) if head.size else (0.0, 1.0)
        axes.imshow(
            image[index].T,
            cmap="gray",
            vmin=min(low, 0),
            vmax=high,
            origin="lower",
            extent=extent,
            interpolation="none",
        )
    whole = np.zeros(scene.shape, dtype=np.float32)
    whole[saliency.box.slices] = saliency.channel(channel)
    rgba = signed_rgba(whole[index].T.astype(float), limit=limit, opacity=0.9)
    axes.imshow(rgba, origin="lower", extent=extent, interpolation="none")
    shown = scene.labels[index]
    outcomes = scene.lesions.set_index("lesion")["outcome"].to_dict()
    for other in np.unique(shown[shown > 0]):
        style = outcome_style(outcomes.get(int(other)))
        lines = outline(shown == other) * (sizes[across], sizes[up])
        thick = 1.5 if other == label else 0.8
        axes.add_collection(LineCollection(list(lines), colors="black", linewidths=thick + 1.0, alpha=0.5))
        dashes = "solid" if style.dash is None else (0, style.dash)
        axes.add_collection(LineCollection(list(lines), colors=style.colour, linewidths=thick, linestyles=[dashes]))
    middle = (voxel[across] * sizes[across], voxel[up] * sizes[up])
    # The high end (right, anterior) on the left: radiological, nose to the left.
    axes.set_xlim(middle[0] + fov_mm / 2, middle[0] - fov_mm / 2)
    axes.set_ylim(middle[1] - fov_mm / 2, middle[1] + fov_mm / 2)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    words: dict[str, Any] = {"transform": axes.transAxes, "color": "white", "fontsize": 8, "weight": "bold"}
    words["path_effects"] = [withStroke(linewidth=1.8, foreground="black")]
    if scene.sided:
        axes.text(0.02, 0.5, LETTERS[across][1], ha="left", va="center", **words)
        axes.text(0.98, 0.5, LETTERS[across][0], ha="right", va="center", **words)
        axes.text(0.5, 0.98, LETTERS[up][1], ha="center", va="top", **words)
        axes.text(0.5, 0.02, LETTERS[up][0], ha="center", va="bottom", **words)
    if plane == "axial":
        axes.plot([0.04, 0.04 + 10 / fov_mm], [0.05, 0.05], color="white", lw=1.6, transform=axes.transAxes)
        axes.text(
            0.04,
            0.065,
            "10 mm",
            transform=axes.transAxes,
            color="white",
            fontsize=6.5,
            va="bottom",
            path_effects=words["path_effects"],
        )


def outline(mask: np.ndarray) -> np.ndarray:
    """Voxel edges around a 2-D mask as line segments (n, 2 ends, 2 coordinates); voxel centres are whole numbers.

    >>> len(outline(np.array([[True]])))
    4
    """
    padded = np.pad(mask, 1)
    first = np.argwhere(padded[1:, :] != padded[:-1, :]) - (0.5, 1.0)
    second = np.argwhere(padded[:, 1:] != padded[:, :-1]) - (1.0, 0.5)
    half = np.eye(2) / 2
    upright = np.stack([first - half[1], first + half[1]], axis=1)
    level = np.stack([second - half[0], second + half[0]], axis=1)
    return np.concatenate([upright, level])
