"""One lesion as a panel for print: three planes through the peak of each channel's map, outlines, colour bar with unit."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lesionwise.charts.palette import OUTCOMES, outcome_style, signed_lut, signed_rgba
from lesionwise.errors import InputError
from lesionwise.geometry.affine import voxel_volume_mm3
from lesionwise.io.derivative import ScanOutput
from lesionwise.io.files import write_whole
from lesionwise.report.anatomy import display_window
from lesionwise.report.limits import ColourScale, colour_limit
from lesionwise.report.narrative import headline, number, short_units, signed
from lesionwise.report.pushes import is_derivative
from lesionwise.report.scene import ScanView, scene_of
from lesionwise.report.settings import method_words
from lesionwise.report.told import finite
from lesionwise.saliency import SaliencyMap

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""Voxel axes across, up and through, on a right-anterior-superior grid."""

LETTERS = {0: ("L", "R"), 1: ("P", "A"), 2: ("I", "S")}
FAINT = 0.05
"""Share of the limit below which a map is not seen."""

FORMATS = (".png", ".pdf", ".svg")


def lesion_figure(
    scan: ScanOutput,
    labels: int | Sequence[int],
    path: Path,
    *,
    fov_mm: float = 70.0,
    desc: str | None = None,
    limit: float | None = None,
    channels: Sequence[str] | None = None,
) -> Path:
    """Draws one lesion, or several below each other, in radiological convention; the suffix chooses PNG, PDF or SVG.

    Colours are those of the page: one scale for all lesions of the scan, zero transparent; `limit` sets its end instead, in
    the unit that the colour bar names. `fov_mm` is the width of a panel, `channels` picks some of the map's.
    Raises InputError if a lesion is not in the table or has no map, a channel is unknown, or the suffix is another.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"Expected a picture ending in {', '.join(FORMATS)}, found {path.name}.")
    asked = [labels] if isinstance(labels, int) else list(labels)
    if not fov_mm > 0 or (limit is not None and not limit > 0):
        raise InputError(f"Expected a width and a limit above 0, found {fov_mm:g} mm and {limit}.")
    scene = scene_of(scan)
    chosen = desc or (scene.descs[0] if scene.descs else "")
    shown = [_shown(scene, label, chosen, channels) for label in asked]
    scale = _scale(scene, shown, chosen) if limit is None else ColourScale(limit, is_derivative(shown[0][1].provenance))
    rows = len(shown[0][1].channels)
    heights = [0.62 + 2.13 * rows] * len(shown)
    figure = Figure(figsize=(7.6, sum(heights) + FOOT))
    parts: Any = figure.subfigures(len(shown) + 1, 1, height_ratios=[*heights, FOOT])
    for part, (row, saliency), height in zip(parts, shown, heights, strict=False):
        _draw(part, scene, row, saliency, scale=scale, fov_mm=fov_mm, height=height)
    _foot(parts[-1], scene, shown[0][1], chosen)
    with write_whole(path) as temporary:
        # No date in the file: the same scan gives the same picture.
        stamp = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix.lower(), {})
        figure.savefig(temporary, dpi=300, format=path.suffix[1:].lower(), metadata=stamp)
    return path


FOOT = 0.42
"""Inches below the lesions, for the legend."""


def _shown(
    scene: ScanView, label: int, desc: str, channels: Sequence[str] | None
) -> tuple[Mapping[Any, Any], SaliencyMap]:
    """A lesion's row and the channels of its map that are asked for."""
    rows = scene.lesions[scene.lesions["lesion"] == label]
    if rows.empty:
        raise InputError(f"Expected a lesion of {scene.name.stem} (1 to {len(scene.lesions)}), found {label}.")
    saliency = scene.saliency(label, desc)
    if saliency is None:
        raise InputError(f"Expected lesion {label} of {scene.name.stem} to be explained, but it has no map.")
    wanted = tuple(channels or saliency.channels)
    unknown = [channel for channel in wanted if channel not in saliency.channels]
    if unknown:
        raise InputError(f"Expected channels of the map ({', '.join(saliency.channels)}), found {unknown[0]}.")
    picked = saliency.data[[saliency.channels.index(channel) for channel in wanted]]
    return rows.iloc[0].to_dict(), replace(saliency, data=picked, channels=wanted, se=None)


def _scale(scene: ScanView, shown: Sequence[tuple[Mapping[Any, Any], SaliencyMap]], desc: str) -> ColourScale:
    derivative = is_derivative(shown[0][1].provenance)
    if desc == scene.descs[0]:
        found = ColourScale.of_table(
            scene.lesions,
            scene.saliency_channels,
            voxel_mm3=voxel_volume_mm3(scene.affine),
            derivative=derivative,
        )
        if found is not None:
            return found
    tops = []
    for row, saliency in shown:
        voxels = len(scene.voxels(int(row["lesion"]))) if derivative else 1
        tops.append(float(np.abs(saliency.data).max(initial=0)) * voxels)
    return ColourScale(colour_limit(tops), derivative)


def _draw(
    figure: Any,
    scene: ScanView,
    row: Mapping[Any, Any],
    saliency: SaliencyMap,
    *,
    scale: ColourScale,
    fov_mm: float,
    height: float,
) -> None:
    channels, label = saliency.channels, int(row["lesion"])
    limit = scale.at(len(scene.voxels(label)))
    peak = np.unravel_index(int(np.abs(saliency.data).max(axis=0).argmax()), saliency.box.shape)
    voxel = tuple(int(a + b) for a, b in zip(peak, saliency.box.start, strict=True))
    left, right, bottom, top = 0.035, 0.865, 0.04 / height, 1 - 0.58 / height
    grid = figure.add_gridspec(
        len(channels), 3, left=left, right=right, bottom=bottom, top=top, wspace=0.02, hspace=0.03
    )
    for number_, channel in enumerate(channels):
        for column, plane in enumerate(PLANES):
            axes = figure.add_subplot(grid[number_, column])
            _panel(axes, scene, label, saliency, channel, plane, voxel, limit=limit, fov_mm=fov_mm)
            if column == 0:
                axes.set_ylabel(channel, fontsize=9, labelpad=2)
            if number_ == 0:
                axes.set_title(plane, fontsize=9, pad=3)
    _colour_bar(figure, saliency, scale, (0.885, bottom + 0.08 * (top - bottom), 0.018, 0.84 * (top - bottom)))
    mm = scene.affine[:3, :3] @ voxel + scene.affine[:3, 3]
    place = ", ".join(number(round(float(value), 1), 4) for value in mm)
    what = "control region" if row.get("outcome") == "TN" else "lesion"
    title = f"{scene.name.stem}, {what} {label}, at ({place}) mm"
    figure.text(left, 1 - 0.17 / height, title, fontsize=10, weight="bold", va="center")
    figure.text(left, 1 - 0.33 / height, _told(scene, row, saliency, limit), fontsize=8, va="center")


def _told(scene: ScanView, row: Mapping[Any, Any], saliency: SaliencyMap, limit: float) -> str:
    """Outcome and size, the effects, and whether anything of the map is seen at all."""
    parts = [headline(row)]
    effects = [
        f"{channel} {signed(value, finite(row, f'effect_in_se_{channel}'))}"
        for channel in saliency.channels
        if (value := finite(row, f"effect_in_{channel}")) is not None
    ]
    if effects:
        parts.append(f"Effect of one SD: {', '.join(effects)}.")
    if np.abs(saliency.data).max(initial=0) < FAINT * limit:
        parts.append(f"No voxel of the map reaches {100 * FAINT:.0f} % of the limit.")
    return " ".join(parts)


def _colour_bar(
    figure: Any, saliency: SaliencyMap, scale: ColourScale, place: tuple[float, float, float, float]
) -> None:
    limit, measured = scale.limit, saliency.provenance.get("Quantitative", True)
    lut = signed_lut().astype(float) / 255
    grey = lut[:, :3] * lut[:, 3:] + 0.36 * (1 - lut[:, 3:])
    colours = figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), ListedColormap(grey)), cax=figure.add_axes(place), extend="both"
    )
    ticks = (-limit, -limit / 2, 0.0, limit / 2, limit) if measured else (0.0, limit)
    colours.set_ticks(list(ticks))
    colours.set_ticklabels([number(value, 2) for value in ticks] if measured else ["none", "strongest"], fontsize=7)
    units = short_units(saliency.units) + (" × the lesion's voxels" if scale.summed else "")
    colours.set_label(units if measured else "locates, does not measure", fontsize=8)


def _foot(figure: Any, scene: ScanView, saliency: SaliencyMap, desc: str) -> None:
    """Which outline is which, method and draws, and what the picture is not for."""
    outcomes = [key for key in OUTCOMES if key in set(scene.lesions["outcome"].fillna("n/a"))]
    keys = [
        Line2D([], [], color=OUTCOMES[key].colour, linewidth=1.5, label=OUTCOMES[key].short, linestyle=_dashes(key))
        for key in outcomes
    ]
    figure.legend(
        handles=keys, loc="upper left", bbox_to_anchor=(0.025, 1.0), ncols=max(len(keys), 1), fontsize=7, frameon=False
    )
    samples = saliency.provenance.get("Samples")
    drawn = f", N = {samples}" if isinstance(samples, int) and samples > 1 else ""
    figure.text(
        0.035,
        0.22,
        f"{method_words(desc)}{drawn}. Planes through the map's strongest voxel. Radiological convention. Research use only.",
        fontsize=7,
        color="0.35",
        va="center",
    )


def _dashes(outcome: str | None) -> Any:
    style = outcome_style(outcome)
    return "solid" if style.dash is None else (0, style.dash)


def _panel(
    axes: Axes,
    scene: ScanView,
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
    if scene.images:
        # A method with one map for all inputs is laid on the first image.
        image = scene.images.get(channel, next(iter(scene.images.values())))
        low, high = display_window(image, scene.voxel_sizes_mm)
        axes.imshow(
            image[index].T,
            cmap="gray",
            vmin=low,
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
        dashes = [_dashes(outcomes.get(int(other)))]
        axes.add_collection(LineCollection(list(lines), colors=style.colour, linewidths=thick, linestyles=dashes))
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
