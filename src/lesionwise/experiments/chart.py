"""A figure described once and drawn twice: for print (matplotlib: PDF and PNG) and for the page (plotly: JSON).

Colours are Okabe and Ito's, told apart by colour-blind readers; line styles and markers differ too, for print in grey.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lesionwise.io.files import write_text, write_whole

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
OUTCOME_COLOURS = {"TP": "#0072B2", "FP": "#D55E00", "FN": "#CC79A7", "TN": "#009E73", "US": "#E69F00"}
_DASHES = ("-", "--", "-.", ":")
_PLOTLY_DASHES = ("solid", "dash", "dashdot", "dot")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_PLOTLY_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")

Numbers = Sequence[float] | np.ndarray

Lesions = Sequence[tuple[str, int]]
"""Scan and label of the lesion that each value stands for: on the page its point opens that lesion."""


@dataclass(frozen=True, eq=False)
class Line:
    """A curve, with a band between `low` and `high` where both are given (NaN: no band)."""

    label: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    colour: str | None = None
    markers: bool = False
    reference: bool = False


@dataclass(frozen=True, eq=False)
class Violin:
    """The distribution of values at one place of a categorical axis; `lesions` are in the order of the values."""

    label: str
    values: Numbers
    colour: str | None = None
    lesions: Lesions | None = None


@dataclass(frozen=True, eq=False)
class Bar:
    """One bar, with an interval where there is one."""

    label: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    colour: str | None = None


@dataclass(frozen=True, eq=False)
class Heat:
    """A table of values as colours: rows along y, columns along x."""

    x: Sequence[str]
    y: Sequence[str]
    values: np.ndarray
    label: str
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Panel:
    """One set of axes."""

    title: str
    x_label: str
    y_label: str
    marks: Sequence[Line | Violin | Bar | Heat]
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    x_marks: Sequence[tuple[float, str]] = ()
    zero_line: bool = False


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure: panels side by side, and the sentence that belongs under it."""

    name: str
    title: str
    panels: Sequence[Panel]
    caption: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def save_chart(chart: Chart, folder: Path) -> list[Path]:
    """Writes `<name>.pdf` (vector), `<name>.png` and `<name>.plotly.json`, each whole or not at all."""
    import matplotlib

    written = []
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "font.size": 9}):
        figure = draw(chart)
        for ending, options in (("pdf", {"metadata": {"CreationDate": None}}), ("png", {"dpi": 200})):
            path = folder / f"{chart.name}.{ending}"
            with write_whole(path) as temporary:
                figure.savefig(temporary, format=ending, bbox_inches="tight", **options)
            written.append(path)
    path = folder / f"{chart.name}.plotly.json"
    write_text(path, plotly_json(chart))
    return [*written, path]


def draw(chart: Chart) -> Any:
    """The figure for print, as a matplotlib Figure that no window or global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(chart.panels)
    figure = Figure(figsize=(3.6 * count + 0.4, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, count, squeeze=False)[0])
    for ax, panel in zip(axes, chart.panels, strict=True):
        _draw_panel(ax, panel, figure)
    figure.suptitle(chart.title, fontsize=10)
    return figure


def plotly_json(chart: Chart) -> str:
    """The figure for the page: `{"data": [...], "layout": {...}}`, with the caption in layout.meta."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = [panel.title for panel in chart.panels]
    figure = make_subplots(rows=1, cols=len(chart.panels), subplot_titles=titles)
    shown: set[str] = set()
    for column, panel in enumerate(chart.panels, start=1):
        for number, mark in enumerate(panel.marks):
            for trace in _traces(go, mark, number, shown):
                figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=panel.x_label, type=_axis_type(panel, "x"), row=1, col=column)
        figure.update_yaxes(title_text=panel.y_label, type=_axis_type(panel, "y"), row=1, col=column)
        if panel.zero_line:
            figure.add_hline(y=0, line_width=1, line_color="#888888", row=1, col=column)
        for position, label in panel.x_marks:
            figure.add_vline(x=position, line_width=1, line_dash="dot", annotation_text=label, row=1, col=column)
    figure.update_layout(title=chart.title, template="plotly_white", meta={"caption": chart.caption, **chart.metadata})
    return str(figure.to_json())


def _draw_panel(ax: Any, panel: Panel, figure: Any) -> None:
    ax.set_title(panel.title, fontsize=9)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    ax.spines[["top", "right"]].set_visible(False)
    if panel.zero_line:
        ax.axhline(0, color="#888888", linewidth=0.7, zorder=0)
    names: list[str] = []
    for number, mark in enumerate(panel.marks):
        colour = getattr(mark, "colour", None) or COLOURS[number % len(COLOURS)]
        if isinstance(mark, Line):
            _draw_line(ax, mark, number, colour)
        elif isinstance(mark, Violin):
            names.append(mark.label)
            _draw_violin(ax, mark, len(names) - 1, colour)
        elif isinstance(mark, Bar):
            names.append(mark.label)
            ax.bar(len(names) - 1, mark.value, color=colour, width=0.7)
            if np.isfinite(mark.low):
                ax.plot([len(names) - 1] * 2, [mark.low, mark.high], color="black", linewidth=1)
        else:
            _draw_heat(ax, mark, figure)
    if names:
        long, many = max(map(len, names)) > 5, len(names) > 6
        style = {"rotation": 60 if many else 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
        ax.set_xticks(range(len(names)), names, **style)
    for position, label in panel.x_marks:
        ax.axvline(position, color="#444444", linewidth=0.8, linestyle=":")
        ax.annotate(label, (position, 1.0), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, va="top")
    if panel.x_scale == "log":
        ax.set_xscale("log")
    if panel.y_scale == "log":
        ax.set_yscale("log")
    if any(isinstance(mark, Line) and mark.label for mark in panel.marks):
        ax.legend(fontsize=7, frameon=False)


def _draw_line(ax: Any, mark: Line, number: int, colour: str) -> None:
    style: dict[str, Any] = {"color": colour, "linestyle": "none" if mark.reference else _DASHES[number % len(_DASHES)]}
    if mark.markers or mark.reference:
        style |= {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 3.5}
    ax.plot(mark.x, mark.y, label=mark.label, linewidth=1.4, **style)
    if mark.low is not None and mark.high is not None and np.isfinite(np.asarray(mark.low, dtype=float)).any():
        ax.fill_between(mark.x, mark.low, mark.high, color=colour, alpha=0.2, linewidth=0)


def _draw_violin(ax: Any, mark: Violin, position: int, colour: str) -> None:
    values = np.asarray(mark.values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) > 2 and np.ptp(values) > 0:
        for body in ax.violinplot(values, [position], showextrema=False, widths=0.8)["bodies"]:
            body.set(facecolor=colour, edgecolor="black", alpha=0.55, linewidth=0.5)
    if len(values):
        spread = 0.12 * np.cos(np.arange(len(values)) * 2.399963)  # golden angle: spread without a random generator
        ax.plot(position + spread, values, ".", color=colour, markersize=2, alpha=0.7)
        ax.plot([position - 0.25, position + 0.25], [np.median(values)] * 2, color="black", linewidth=1.5)


def _draw_heat(ax: Any, mark: Heat, figure: Any) -> None:
    low, high = mark.limits or (float(np.nanmin(mark.values)), float(np.nanmax(mark.values)))
    image = ax.imshow(mark.values, aspect="auto", origin="lower", cmap="cividis", vmin=low, vmax=high)
    ax.set_xticks(range(len(mark.x)), mark.x)
    ax.set_yticks(range(len(mark.y)), mark.y)
    middle = 0.5 * (low + high)
    for (row, column), value in np.ndenumerate(mark.values):
        if np.isfinite(value):
            colour = "black" if value > middle else "white"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=ax, label=mark.label)


def _traces(go: Any, mark: Line | Violin | Bar | Heat, number: int, shown: set[str]) -> list[Any]:
    colour = getattr(mark, "colour", None) or COLOURS[number % len(COLOURS)]
    legend = {"showlegend": mark.label not in shown, "legendgroup": mark.label, "name": mark.label}
    shown.add(mark.label)
    if isinstance(mark, Violin):
        return [_violin_trace(go, mark, colour, legend)]
    if isinstance(mark, Bar):
        error = None
        if np.isfinite(mark.low):
            error = {"type": "data", "symmetric": False, "array": [mark.high - mark.value]}
            error["arrayminus"] = [mark.value - mark.low]
        return [go.Bar(x=[mark.label], y=[_finite(mark.value)], error_y=error, marker_color=colour, **legend)]
    if isinstance(mark, Heat):
        low, high = mark.limits or (None, None)
        rows = [_plain(row) for row in mark.values]
        return [go.Heatmap(x=list(mark.x), y=list(mark.y), z=rows, colorscale="Cividis", zmin=low, zmax=high)]
    traces = []
    if mark.low is not None and mark.high is not None and np.isfinite(np.asarray(mark.low, dtype=float)).any():
        band = {"x": _plain(mark.x), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        band |= {"legendgroup": mark.label, "mode": "lines"}
        red, green, blue = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
        fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.2)"}
        traces = [go.Scatter(y=_plain(mark.low), **band), go.Scatter(y=_plain(mark.high), **band, **fill)]
    mode = "markers" if mark.reference else "lines+markers" if mark.markers else "lines"
    line = {"color": colour, "dash": _PLOTLY_DASHES[number % len(_PLOTLY_DASHES)]}
    marker = {"color": colour, "symbol": _PLOTLY_MARKERS[number % len(_PLOTLY_MARKERS)]}
    return [*traces, go.Scatter(x=_plain(mark.x), y=_plain(mark.y), mode=mode, line=line, marker=marker, **legend)]


def _violin_trace(go: Any, mark: Violin, colour: str, legend: dict[str, Any]) -> Any:
    style = {
        "line_color": colour,
        "points": "all",
        "pointpos": 0,
        "jitter": 0.5,
        "marker": {"size": 5},
        "spanmode": "hard",
    }
    if mark.lesions is not None:
        style |= {"customdata": [[scan, int(lesion)] for scan, lesion in mark.lesions], "hoveron": "points"}
        style["hovertemplate"] = "%{customdata[0]}, lesion %{customdata[1]}<br>%{y:.3g}<extra></extra>"
    return go.Violin(y=_plain(mark.values), box_visible=True, **style, **legend)


def _axis_type(panel: Panel, axis: str) -> str | None:
    if getattr(panel, f"{axis}_scale") == "log":
        return "log"
    categorical = axis == "x" and any(isinstance(mark, Bar | Heat) for mark in panel.marks)
    return "category" if categorical else None


def _plain(values: Numbers) -> list[float | None]:
    return [_finite(value) for value in np.asarray(values, dtype=float)]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
