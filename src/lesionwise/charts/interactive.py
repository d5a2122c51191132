"""A chart for the page: plotly JSON. Points that stand for a lesion carry its scan and number."""

from typing import Any

import numpy as np

from lesionwise.charts.chart import Bar, Chart, Heat, Mark, Numbers, Panel, Violin
from lesionwise.charts.palette import faint, series_colour

_DASHES = ("solid", "dash", "dashdot", "dot")
_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")


def plotly_json(chart: Chart) -> str:
    """`{"data": [...], "layout": {...}}`, with the caption and the number of rows of panels in layout.meta."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows, columns = chart.grid
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=[p.title if p else "" for p in chart.panels])
    shown: set[str] = set()
    for place, panel in enumerate(chart.panels):
        if panel is None:
            continue
        where = {"row": place // columns + 1, "col": place % columns + 1}
        last = where["col"] == columns or place == len(chart.panels) - 1
        for number, mark in enumerate(panel.marks):
            for trace in _traces(go, mark, number, shown, horizontal=panel.horizontal, keyed=last):
                figure.add_trace(trace, **where)
        figure.update_xaxes(title_text=panel.x_label, type=_axis_type(panel, "x"), range=panel.x_limits, **where)
        figure.update_yaxes(title_text=panel.y_label, type=_axis_type(panel, "y"), range=panel.y_limits, **where)
        if panel.horizontal:
            figure.update_yaxes(autorange="reversed", **where)
        if panel.zero_line:
            figure.add_hline(y=0, line_width=1, line_color="#888888", **where)
        for low, high, word in panel.spans:
            low, high = (float(np.clip(v, *(panel.x_limits or (low, high)))) for v in (low, high))
            style = {"fillcolor": "#888888", "opacity": 0.15, "line_width": 0, "annotation_position": "bottom left"}
            figure.add_vrect(x0=low, x1=high, annotation_text=word, **style, **where)
        for position, label in panel.x_marks:
            figure.add_vline(x=position, line_width=1, line_dash="dot", annotation_text=label, **where)
    meta = {"caption": chart.legend, "rows": rows, **chart.metadata}
    figure.update_layout(title=chart.title, template="plotly_white", meta=meta)
    return str(figure.to_json())


def _traces(go: Any, mark: Mark, number: int, shown: set[str], *, horizontal: bool, keyed: bool) -> list[Any]:
    colour = getattr(mark, "colour", None) or series_colour(number)
    name = mark.series if isinstance(mark, Bar) and mark.series else mark.label
    legend = {"showlegend": name not in shown, "legendgroup": name, "name": name}
    shown.add(name)
    if isinstance(mark, Violin):
        return [_violin_trace(go, mark, colour, legend)]
    if isinstance(mark, Bar):
        error = None
        if np.isfinite(mark.low):
            error = {"type": "data", "symmetric": False, "array": [mark.high - mark.value]}
            error["arrayminus"] = [mark.value - mark.low]
        ends = {"x": [_finite(mark.value)], "y": [mark.label], "orientation": "h", "error_x": error}
        if not horizontal:
            ends = {"x": [mark.label], "y": [_finite(mark.value)], "error_y": error}
        if mark.series:
            ends["offsetgroup"] = mark.series
        return [go.Bar(**ends, marker_color=colour, **legend)]
    if isinstance(mark, Heat):
        low, high = mark.limits or (None, None)
        rows = [_plain(row) for row in mark.values]
        scale = {
            "colorscale": "Cividis",
            "zmin": low,
            "zmax": high,
            "showscale": keyed,
            "colorbar": {"title": mark.label},
        }
        return [go.Heatmap(x=list(mark.x), y=list(mark.y), z=rows, **scale)]
    traces = []
    if mark.low is not None and mark.high is not None and np.isfinite(np.asarray(mark.low, dtype=float)).any():
        band = {"x": _plain(mark.x), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        band |= {"legendgroup": mark.label, "mode": "lines"}
        fill = {"fill": "tonexty", "fillcolor": faint(colour, 0.2)}
        traces = [go.Scatter(y=_plain(mark.low), **band), go.Scatter(y=_plain(mark.high), **band, **fill)]
    mode = "markers" if mark.reference else "lines+markers" if mark.markers else "lines"
    line = {"color": colour, "dash": _DASHES[number % len(_DASHES)]}
    marker = {"color": colour, "symbol": _MARKERS[number % len(_MARKERS)]}
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
    named = "y" if panel.horizontal else "x"
    categorical = axis == named and any(isinstance(mark, Bar | Heat) for mark in panel.marks)
    return "category" if categorical else None


def _plain(values: Numbers) -> list[float | None]:
    return [_finite(value) for value in np.asarray(values, dtype=float)]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
