"""The report of a cohort: the paper's figures, interactive; every point opens its lesion's page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lesionwise import __version__
from lesionwise.errors import InputError
from lesionwise.io.derivative import list_scans, read_scan
from lesionwise.io.files import write_text
from lesionwise.report import palette
from lesionwise.report.viewer import Script, asset, json_markup, policy, script, templates
from lesionwise.stats.bootstrap import mean_over_patients

SHELLS = (("mean_in", "inside"), ("mean_shell_0_3mm", "0 to 3 mm"), ("mean_shell_3_7mm", "3 to 7 mm"))
SEED = 0
"""Of the patient bootstrap and of the sideways jitter: the same cohort gives the same page."""


def cohort_table(out_dir: Path) -> pd.DataFrame:
    """The lesion tables of all finished scans below each other, with `scan`, `patient` and `link` (page and lesion)."""
    parts = []
    for name in list_scans(Path(out_dir)):
        scan = read_scan(Path(out_dir), name)
        table = scan.lesions.copy()
        table["scan"], table["patient"] = name.stem, name.subject
        table["link"] = [f"{name.folder}/{name.stem}_report.html#lesion-{int(label)}" for label in table["lesion"]]
        parts.append(table)
    if not parts:
        raise InputError(f"Expected finished scans in {out_dir}, found none.")
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def write_group_report(out_dir: Path) -> Path:
    """Writes `OUT/report.html` for a cohort and returns its path. Raises InputError if no scan is finished."""
    path = Path(out_dir) / "report.html"
    write_text(path, render_group(Path(out_dir)))
    return path


def render_group(out_dir: Path) -> str:
    """The cohort page's HTML."""
    names = list_scans(out_dir)
    table = cohort_table(out_dir)
    scans = [read_scan(out_dir, name) for name in names]
    channels = tuple(dict.fromkeys(channel for scan in scans for channel in scan.channels))
    units = next((units for scan in scans if (units := _units(scan.columns, channels))), "")
    charts = figures(table, channels, units=units)
    library = Script("plotly", get_plotlyjs())
    scripts = [library, script("group.js")]
    counts = table.assign(outcome=table["outcome"].fillna("n/a")).groupby(["scan", "outcome"]).size()
    present = [key for key in palette.OUTCOMES if key in set(table["outcome"].fillna("n/a"))]
    return (
        templates()
        .get_template("group.jinja")
        .render(
            style=asset("style.css"),
            scripts=scripts,
            policy=policy(scripts),
            content=json_markup([{"id": chart["id"], "figure": chart["figure"]} for chart in charts]),
            charts=charts,
            outcomes=[(key, palette.OUTCOMES[key]) for key in present],
            scans=[
                {
                    "stem": name.stem,
                    "link": f"{name.folder}/{name.stem}_report.html",
                    "lesions": int((table["scan"] == name.stem).sum()),
                    "volume_ml": float(table.loc[table["scan"] == name.stem, "volume_mm3"].sum() / 1000),
                    "counts": [int(counts.get((name.stem, key), 0)) for key in present],
                }
                for name in names
            ],
            patients=table["patient"].nunique(),
            lesion_count=len(table),
            models=sorted({str(scan.facts.get("Model", {}).get("Name", "n/a")) for scan in scans}),
            version=__version__,
        )
    )


def figures(table: pd.DataFrame, channels: Sequence[str], *, units: str) -> list[dict[str, Any]]:
    """The cohort's figures as plotly JSON, each with a title and what to make of it."""
    outcomes = [key for key in palette.OUTCOMES if key in set(table["outcome"].fillna("n/a"))]
    table = table.assign(outcome=table["outcome"].fillna("n/a"))
    found: list[dict[str, Any]] = []
    explained = [channel for channel in channels if f"peak_{channel}" in table]
    for channel in explained:
        found.append(
            {
                "id": f"peaks-{len(found)}",
                "title": f"Peak of the {channel} map by outcome",
                "note": "One point per lesion; the box pools lesions, the diamond with its bar is the mean over patients "
                "with its 95 % patient bootstrap. Peaks of the maximum reduction grow with size: compare beside the volume.",
                "figure": _by_outcome(table, f"peak_{channel}", outcomes, f"peak {channel}<br>{units}"),
            }
        )
    if len(explained) > 1:
        first = explained[0]
        found.append(
            {
                "id": "share",
                "title": f"How much of the map's weight is {first}",
                "note": "1 would be a network that reads nothing else for this lesion, 0 one that does not read it at all.",
                "figure": _by_outcome(table, f"share_{first}", outcomes, f"share of {first}", span=(0, 1)),
            }
        )
    shells = [channel for channel in explained if f"mean_in_{channel}" in table]
    if shells:
        found.append(
            {
                "id": "shells",
                "title": "Sign by distance",
                "note": "Mean of the signed map inside the lesion and in two shells around it; bars are 95 % patient "
                "bootstraps of the mean over patients.",
                "figure": _shells(table, shells, outcomes, units),
            }
        )
    for channel in explained[:1]:
        for column, title, logarithmic in (
            ("volume_mm3", "volume, mm³", True),
            ("probability_mean", "mean probability", False),
        ):
            if column in table:
                found.append(
                    {
                        "id": f"peak-{column.replace('_', '-')}",
                        "title": f"Peak {channel} against {title.split(',')[0]}",
                        "note": "A difference between outcomes that disappears at equal size or probability adds nothing "
                        "to them.",
                        "figure": _scatter(
                            table, column, f"peak_{channel}", outcomes, title, f"peak {channel}<br>{units}", logarithmic
                        ),
                    }
                )
    return found


def _points(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "customdata": rows[["link", "scan", "lesion"]].to_numpy().tolist(),
        "hovertemplate": "%{customdata[1]}, lesion %{customdata[2]}<br>%{y:.3g}<extra></extra>",
    }


def _finish(figure: go.Figure) -> dict[str, Any]:
    figure.update_layout(
        template="none",
        height=400,
        margin={"l": 80, "r": 12, "t": 12, "b": 48},
        font={"size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"font": {"size": 13}},
        legend={"orientation": "h", "y": 1.08},
    )
    return figure.to_plotly_json()


def _by_outcome(
    table: pd.DataFrame, column: str, outcomes: Sequence[str], title: str, *, span: tuple[float, float] | None = None
) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    figure = go.Figure()
    for place, outcome in enumerate(outcomes):
        rows = table[(table["outcome"] == outcome) & pd.to_numeric(table[column], errors="coerce").notna()]
        if rows.empty:
            continue
        colour = palette.OUTCOMES[outcome].colour
        values = rows[column].astype(float)
        figure.add_box(
            x=[place] * len(rows),
            y=values.tolist(),
            boxpoints=False,
            width=0.5,
            fillcolor=_faint(colour),
            line={"color": colour, "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=(place + rng.uniform(-0.2, 0.2, len(rows))).tolist(),
            y=values.tolist(),
            mode="markers",
            showlegend=False,
            marker={"color": colour, "size": 7, "line": {"color": "rgba(0,0,0,.45)", "width": 0.6}},
            **_points(rows),
        )
        mean = mean_over_patients(values.to_numpy(), rows["patient"].to_numpy(), rng=rng)
        figure.add_scatter(
            x=[place + 0.34],
            y=[mean.estimate],
            mode="markers",
            showlegend=False,
            **_bars([mean]),
            marker={"symbol": "diamond", "size": 11, "color": colour, "line": {"color": "#333", "width": 1}},
            hovertemplate=f"mean over {mean.n_patients} patients<br>%{{y:.3g}}<extra></extra>",
        )
    ticks = [f"{outcome}<br>{palette.OUTCOMES[outcome].short}" for outcome in outcomes]
    figure.update_xaxes(
        tickvals=list(range(len(outcomes))), ticktext=ticks, range=[-0.6, len(outcomes) - 0.3], zeroline=False
    )
    figure.update_yaxes(title={"text": title}, range=span, zeroline=True)
    return _finish(figure)


def _shells(table: pd.DataFrame, channels: Sequence[str], outcomes: Sequence[str], units: str) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    figure = go.Figure()
    dashes = ("solid", "dot", "dash", "dashdot")
    for number, channel in enumerate(channels):
        for place, outcome in enumerate(outcomes):
            rows = table[(table["outcome"] == outcome) & table[f"mean_in_{channel}"].notna()]
            if rows.empty:
                continue
            means = [
                mean_over_patients(
                    rows[f"{column}_{channel}"].astype(float).to_numpy(), rows["patient"].to_numpy(), rng=rng
                )
                for column, _ in SHELLS
            ]
            shift = (place + number * len(outcomes)) * 0.02 - 0.08
            figure.add_scatter(
                x=[at + shift for at in range(len(SHELLS))],
                y=[mean.estimate for mean in means],
                mode="lines+markers",
                name=f"{channel} {outcome}",
                line={"color": palette.OUTCOMES[outcome].colour, "dash": dashes[number % 4]},
                marker={"size": 8, "line": {"color": "rgba(0,0,0,.5)", "width": 0.6}},
                **_bars(means),
                hovertemplate=f"{channel} {outcome}<br>%{{y:.3g}}<extra></extra>",
            )
    figure.update_xaxes(tickvals=list(range(len(SHELLS))), ticktext=[name for _, name in SHELLS], zeroline=False)
    figure.update_yaxes(title={"text": f"mean of the map<br>{units}"}, zeroline=True)
    return _finish(figure)


def _scatter(
    table: pd.DataFrame, x: str, y: str, outcomes: Sequence[str], x_title: str, y_title: str, logarithmic: bool
) -> dict[str, Any]:
    figure = go.Figure()
    for outcome in outcomes:
        rows = table[(table["outcome"] == outcome) & table[y].notna() & table[x].notna()]
        if len(rows):
            figure.add_scatter(
                x=rows[x].astype(float).tolist(),
                y=rows[y].astype(float).tolist(),
                mode="markers",
                name=outcome,
                marker={
                    "color": palette.OUTCOMES[outcome].colour,
                    "size": 8,
                    "line": {"color": "rgba(0,0,0,.45)", "width": 0.6},
                },
                **_points(rows),
            )
    figure.update_xaxes(title={"text": x_title}, type="log" if logarithmic else "linear", zeroline=False)
    figure.update_yaxes(title={"text": y_title}, zeroline=True)
    return _finish(figure)


def _bars(means: Sequence[Any]) -> dict[str, Any]:
    up = [max(mean.high - mean.estimate, 0) if np.isfinite(mean.high) else 0.0 for mean in means]
    down = [max(mean.estimate - mean.low, 0) if np.isfinite(mean.low) else 0.0 for mean in means]
    return {
        "error_y": {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.6, "width": 4}
    }


def _faint(colour: str) -> str:
    red, green, blue = palette.rgb(colour)
    return f"rgba({red},{green},{blue},0.15)"


def _units(columns: Any, channels: Sequence[str]) -> str:
    entry = columns.get(f"peak_{channels[0]}", {}) if channels else {}
    return str(entry.get("Units", "")) if isinstance(entry, dict) else ""
