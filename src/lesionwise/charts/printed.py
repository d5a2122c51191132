"""A chart for print: a matplotlib figure, as vector or as picture, that can be read in grey."""

import textwrap
from typing import Any

import numpy as np

from lesionwise.charts.chart import Bar, Chart, Heat, Line, Panel, Violin
from lesionwise.charts.palette import series_colour

_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_HATCHES = ("", "///", "...", "xxx")
_BAR_ROOM = 0.26  # inches per horizontal bar
_LETTER_ROOM = 0.072  # inches per letter of the smallest text
_SMALL = 8  # points: the smallest text of a figure, which a page shows at about its size


def draw(chart: Chart) -> Any:
    """The figure as a matplotlib Figure that no window or global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = chart.grid
    bars = max(
        (len({m.label for m in p.marks if isinstance(m, Bar)}) for p in chart.panels if p and p.horizontal), default=0
    )
    rooms = [max(map(_name_room, chart.panels[column::columns]), default=0.0) for column in range(columns)]
    width = min(3.6 * columns + 0.4, 11.2) + sum(rooms)
    figure = Figure(figsize=(width, max(3.0, 1.2 + _BAR_ROOM * bars) * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (ax, panel) in enumerate(zip(axes, chart.panels, strict=False)):
        if panel is None:
            ax.set_visible(False)
            continue
        last = number % columns == columns - 1 or number == len(chart.panels) - 1
        _draw_panel(ax, panel, figure, keyed=last)
    for ax in axes[len(chart.panels) :]:
        ax.set_visible(False)
    _name_lines(figure, [ax for ax in axes if ax.get_visible()], columns_of_text=round(15 * width))
    title = textwrap.fill(chart.title, max(40, round(12 * width)))
    figure.suptitle(
        f"{title}\n{textwrap.fill(chart.sample, round(14 * width))}" if chart.sample else title, fontsize=10
    )
    return figure


def _name_room(panel: Panel | None) -> float:
    """Inches that the names along a panel's vertical axis take beyond those of numbers."""
    if panel is None:
        return 0.0
    names = [mark.label for mark in panel.marks if isinstance(mark, Bar) and panel.horizontal]
    names += [name for mark in panel.marks if isinstance(mark, Heat) for name in mark.y]
    return max(0.0, _LETTER_ROOM * max(map(len, names), default=0) - 0.4)


def _draw_panel(ax: Any, panel: Panel, figure: Any, *, keyed: bool) -> None:
    ax.set_title(panel.title, fontsize=9)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    ax.spines[["top", "right"]].set_visible(False)
    if panel.zero_line:
        ax.axhline(0, color="#888888", linewidth=0.7, zorder=0)
    violins: list[str] = []
    for number, mark in enumerate(panel.marks):
        colour = getattr(mark, "colour", None) or series_colour(number)
        if isinstance(mark, Line):
            _draw_line(ax, mark, number, colour)
        elif isinstance(mark, Violin):
            violins.append(_draw_violin(ax, mark, len(violins), colour))
        elif isinstance(mark, Heat):
            _draw_heat(ax, mark, figure, keyed=keyed)
    if violins:
        _name_places(ax, violins)
    bars = [mark for mark in panel.marks if isinstance(mark, Bar)]
    if bars:
        _draw_bars(ax, bars, horizontal=panel.horizontal)
    for low, high, word in panel.spans:
        ax.axvspan(low, high, color="#888888", alpha=0.15, linewidth=0, zorder=0)
        middle = 0.5 * (max(low, (panel.x_limits or (low, high))[0]) + min(high, (panel.x_limits or (low, high))[1]))
        ax.annotate(word, (middle, 0.01), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=_SMALL)
    for position, label in panel.x_marks:
        ax.axvline(position, color="#444444", linewidth=0.8, linestyle=":")
        where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "xytext": (-2, 0)}
        ax.annotate(label, (position, 0.02), fontsize=_SMALL, rotation=90, va="bottom", ha="right", **where)
    if panel.x_scale == "log":
        ax.set_xscale("log")
    if panel.y_scale == "log":
        ax.set_yscale("log")
    if panel.x_limits:
        ax.set_xlim(*panel.x_limits)
    if panel.y_limits:
        ax.set_ylim(*panel.y_limits)


def _name_lines(figure: Any, axes: list[Any], *, columns_of_text: int) -> None:
    """Which line is which, below the axes and never over what they show: once where all panels agree, else per panel."""
    keys: dict[str, Any] = {}
    agree = True
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            known = keys.setdefault(label, handle)
            agree &= _style(known) == _style(handle)
    style: dict[str, Any] = {"fontsize": _SMALL, "frameon": False}
    if keys and agree:
        beside = max(1, min(len(keys), columns_of_text // (max(map(len, keys)) + 8)))  # each with its line and a gap
        figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=beside, **style)
    elif keys:
        for ax in axes:
            if ax.get_legend_handles_labels()[1]:
                ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), **style)


def _style(line: Any) -> tuple[Any, ...]:
    return line.get_color(), line.get_linestyle(), line.get_marker()


def _name_places(ax: Any, names: list[str]) -> None:
    """Labels of the places of a categorical axis, turned where they would meet."""
    names = [name.replace(" (", "\n(") for name in names]
    longest = max(len(part) for name in names for part in name.split("\n"))
    style = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if longest * len(names) > 34 else {}
    ax.set_xticks(range(len(names)), names, **style)


def _draw_line(ax: Any, mark: Line, number: int, colour: str) -> None:
    style: dict[str, Any] = {"color": colour, "linestyle": "none" if mark.reference else _DASHES[number % len(_DASHES)]}
    if mark.markers or mark.reference:
        style |= {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 3.5}
    ax.plot(mark.x, mark.y, label=mark.label, linewidth=1.4, **style)
    if mark.low is not None and mark.high is not None and np.isfinite(np.asarray(mark.low, dtype=float)).any():
        ax.fill_between(mark.x, mark.low, mark.high, color=colour, alpha=0.2, linewidth=0)


def _draw_violin(ax: Any, mark: Violin, position: int, colour: str) -> str:
    """Draws it and returns its label with the number of values."""
    values = np.asarray(mark.values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) > 2 and np.ptp(values) > 0:
        for body in ax.violinplot(values, [position], showextrema=False, widths=0.8)["bodies"]:
            body.set(facecolor=colour, edgecolor="black", alpha=0.55, linewidth=0.5)
    if len(values):
        spread = 0.12 * np.cos(np.arange(len(values)) * 2.399963)  # golden angle: spread without a random generator
        ax.plot(
            position + spread, values, ".", color=colour, markersize=3, markeredgecolor="black", markeredgewidth=0.2
        )
        ax.plot([position - 0.25, position + 0.25], [np.median(values)] * 2, color="black", linewidth=1.5)
    count = f"{len(values)}" if mark.of is None or mark.of == len(values) else f"{len(values)} of {mark.of}"
    return f"{mark.label}\nn = {count}"


def _draw_bars(ax: Any, bars: list[Bar], *, horizontal: bool) -> None:
    labels, series = list(dict.fromkeys(b.label for b in bars)), list(dict.fromkeys(b.series for b in bars))
    width = 0.75 / len(series)
    for bar in bars:
        which = series.index(bar.series)
        at = labels.index(bar.label) + (which - 0.5 * (len(series) - 1)) * width
        colour = bar.colour or series_colour(which)
        style = {"color": colour, "hatch": _HATCHES[which % 4], "edgecolor": "white", "linewidth": 0}
        ends = ([bar.low, bar.high], [at] * 2) if horizontal else ([at] * 2, [bar.low, bar.high])
        (ax.barh if horizontal else ax.bar)(at, bar.value, width, **style)
        if np.isfinite(bar.low):
            ax.plot(*ends, color="black", linewidth=1)
    if horizontal:
        ax.set_yticks(range(len(labels)), labels, fontsize=_SMALL)
        ax.invert_yaxis()
        ax.axvline(0, color="#888888", linewidth=0.7)
    else:
        _name_places(ax, labels)
        ax.axhline(0, color="#888888", linewidth=0.7)
    if len(series) > 1:
        from matplotlib.patches import Patch

        keys = []
        for which, name in enumerate(series):
            colour = next(b.colour for b in bars if b.series == name) or series_colour(which)
            keys.append(Patch(facecolor=colour, hatch=_HATCHES[which % 4], edgecolor="white", label=name))
        ax.legend(
            handles=keys,
            fontsize=_SMALL,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=len(series),
        )
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.15 * (high - low))


def _draw_heat(ax: Any, mark: Heat, figure: Any, *, keyed: bool) -> None:
    low, high = mark.limits or (float(np.nanmin(mark.values)), float(np.nanmax(mark.values)))
    image = ax.imshow(mark.values, aspect="auto", origin="lower", cmap="cividis", vmin=low, vmax=high)
    _name_places(ax, list(mark.x))
    ax.set_yticks(range(len(mark.y)), mark.y, fontsize=_SMALL)
    middle = 0.5 * (low + high)
    for (row, column), value in np.ndenumerate(mark.values):
        if np.isfinite(value):
            colour = "black" if value > middle else "white"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=_SMALL, color=colour)
    if keyed or mark.limits is None:
        figure.colorbar(image, ax=ax, label=mark.label)
