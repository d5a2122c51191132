"""The report of a cohort: the paper's figures, interactive; every point opens its lesion's page."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lesionwise import __version__
from lesionwise.charts import palette
from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import ScanOutput, read_triage
from lesionwise.io.files import write_text
from lesionwise.io.written import require_usable
from lesionwise.report.findings import FOLDER, read_findings
from lesionwise.report.narrative import short_units
from lesionwise.report.privacy import without_paths
from lesionwise.report.viewer import Script, asset, json_markup, policy, script, templates
from lesionwise.stats.bootstrap import mean_over_patients

SHELLS = (("mean_in", "inside"), ("mean_shell_0_3mm", "0 to 3 mm"), ("mean_shell_3_7mm", "3 to 7 mm"))
OUTLIERS = "study/outliers.tsv"
"""What the study's group step lists to be looked at, if it ran."""

LEFT_OUT = "study/left_out.tsv"
"""Scans that the study could not use."""

MOST_POINTS = 3000
"""Lesions drawn as points in one figure; of more, a random choice. Boxes and means are always of all lesions."""

SEED = 0
"""Of the patient bootstrap and of the sideways jitter: the same cohort gives the same page."""


def cohort_table(out_dir: Path) -> pd.DataFrame:
    """The lesion tables of all finished scans below each other, with `scan`, `patient` and `link` (page and lesion)."""
    return _joined(require_usable(Path(out_dir))[0], Path(out_dir))


def _joined(scans: Sequence[ScanOutput], out_dir: Path) -> pd.DataFrame:
    if not scans:
        raise InputError(f"Expected finished scans in {out_dir}, found none.")
    parts = []
    for scan in scans:
        table, page = scan.lesions.copy(), page_address(scan.name)
        table["scan"], table["patient"] = scan.name.stem, scan.name.subject
        table["link"] = [f"{page}#lesion-{int(label)}" for label in table["lesion"]]
        parts.append(table)
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def page_address(name: ScanName) -> str:
    """Where a scan's page lies, relative to the cohort's."""
    return f"{name.folder}/{name.stem}_report.html"


def write_group_report(out_dir: Path, *, experiments: Path | None = None) -> Path:
    """Writes `OUT/report.html` for a cohort and returns its path.

    It shows the findings below `experiments` (`OUT/experiments`). Raises InputError if no scan is finished.
    """
    path = Path(out_dir) / "report.html"
    write_text(path, render_group(Path(out_dir), experiments=experiments))
    return path


def render_group(
    out_dir: Path, *, experiments: Path | None = None, address_fn: Callable[[ScanName], str] | None = None
) -> str:
    """The cohort page's HTML. With `address_fn` links go to the addresses that it gives, else to the pages that exist."""
    scans, unusable = require_usable(out_dir)
    table = _joined(scans, out_dir)
    pages = {scan.name.stem: _address(out_dir, scan.name, address_fn) for scan in scans}
    channels = tuple(dict.fromkeys(channel for scan in scans for channel in scan.channels))
    units = next((units for scan in scans if (units := _units(scan.columns, channels))), "")
    charts = figures(table, channels, units=units)
    found = read_findings(experiments or out_dir / FOLDER)
    drawn = {f"experiment-{n}-{m}": each for n, shown in enumerate(found) for m, each in enumerate(shown.figures)}
    scripts = [Script("plotly", get_plotlyjs()), script("group.js")]
    counts = table.assign(outcome=table["outcome"].fillna("n/a")).groupby(["scan", "outcome"]).size()
    sums = table.groupby("scan")["volume_mm3"].agg(["size", "sum"])
    present = [key for key in palette.OUTCOMES if key in set(table["outcome"].fillna("n/a"))]
    return (
        templates()
        .get_template("group.jinja")
        .render(
            style=asset("style.css"),
            scripts=scripts,
            policy=policy(scripts),
            content=json_markup(
                {
                    "charts": [{"id": chart["id"], "figure": chart["figure"]} for chart in charts]
                    + [{"id": key, "figure": each.figure} for key, each in drawn.items()],
                    "pages": {stem: page for stem, page in pages.items() if page},
                }
            ),
            charts=charts,
            findings=found,
            outliers=standing_out(out_dir, pages),
            left_out=[*left_out(out_dir), *((one.name.stem, without_paths(one.reason)) for one in unusable)],
            judged=probably_false(scans),
            outcomes=[(key, palette.OUTCOMES[key]) for key in present],
            scans=[
                {
                    "stem": stem,
                    "link": page,
                    "lesions": int(sums["size"].get(stem, 0)),
                    "volume_ml": float(sums["sum"].get(stem, 0.0)) / 1000,
                    "counts": [int(counts.get((stem, key), 0)) for key in present],
                }
                for stem, page in pages.items()
            ],
            without_page=sum(1 for page in pages.values() if not page),
            patients=table["patient"].nunique(),
            lesion_count=len(table),
            models=sorted({str(scan.facts.get("Model", {}).get("Name", "n/a")) for scan in scans}),
            version=__version__,
        )
    )


def _address(out_dir: Path, name: ScanName, address_fn: Callable[[ScanName], str] | None) -> str:
    """Address of a scan's page, empty if it was not written."""
    if address_fn is not None:
        return address_fn(name)
    page = page_address(name)
    return quote(page) if (out_dir / page).is_file() else ""


def standing_out(out_dir: Path, pages: Mapping[str, str], *, most: int = 30) -> list[dict[str, str]]:
    """What the study's group step lists as far from the cohort, the farthest first: scan, lesion, link and reason."""
    found = []
    for row in _rows_of(out_dir / OUTLIERS)[:most]:
        scan, lesion = row.get("scan", ""), row.get("lesion", "n/a")
        whole = not lesion.removesuffix(".0").isdecimal()
        number = "" if whole else lesion.removesuffix(".0")
        page = pages.get(scan, "")
        link = page if whole or not page else f"{page}#lesion-{number}"
        found.append({"scan": scan, "lesion": number, "link": link, "reason": row.get("reason", "")})
    return found


def _rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of one of the study's lists as text; none where it is missing or damaged (the group step writes it anew)."""
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return []
    return [{str(key): str(value) for key, value in row.items()} for row in table.to_dict("records")]


def left_out(out_dir: Path) -> list[tuple[str, str]]:
    """Scans that the study could not use, with the reason; paths are cut, as a page travels."""
    return [(row.get("scan", ""), without_paths(row.get("reason", ""))) for row in _rows_of(out_dir / LEFT_OUT)]


def probably_false(scans: Sequence[ScanOutput]) -> dict[str, int | str]:
    """Lesions that triage calls probably false by scan, nothing where it was not applied; empty if it was nowhere."""
    found: dict[str, int | str] = {}
    for scan in scans:
        triage = read_triage(scan.files)
        found[scan.name.stem] = (
            "" if triage is None else int((triage.verdicts["triage_verdict"] == "probably false").sum())
        )
    return found if any(count != "" for count in found.values()) else {}


def figures(table: pd.DataFrame, channels: Sequence[str], *, units: str) -> list[dict[str, Any]]:
    """The cohort's figures as plotly JSON, each with a title and what to make of it."""
    outcomes = [key for key in palette.OUTCOMES if key in set(table["outcome"].fillna("n/a"))]
    table = table.assign(outcome=table["outcome"].fillna("n/a"))
    found: list[dict[str, Any]] = []
    points = "One point per lesion."
    if len(table) > MOST_POINTS:
        points = (
            f"{MOST_POINTS} of {len(table)} lesions, chosen at random, are drawn as points; boxes and means are of all."
        )
    measure, explained = _measured(table, channels)
    if measure == "effect_in":
        axis, what = (
            f"effect of {{}}<br>{units.split(' per ')[0]} per SD brighter throughout",
            "Effect of {} by outcome",
        )
        meaning = (
            "What one SD more brightness throughout a lesion does to its output: it does not shrink with size by "
            "construction."
        )
    else:
        axis, what = f"peak {{}}<br>{units}", "Peak of the {} map by outcome"
        meaning = "Peaks shrink with size by mean and grow by maximum: compare beside the volume."
    for channel in explained:
        found.append(
            {
                "id": f"effects-{len(found)}",
                "title": what.format(channel),
                "note": f"{points} {meaning} The box pools lesions, the diamond with its bar is the mean over patients with its "
                "95 % patient bootstrap.",
                "figure": _by_outcome(table, f"{measure}_{channel}", outcomes, axis.format(channel)),
            }
        )
    shells = [channel for channel in explained if f"mean_in_{channel}" in table]
    if shells:
        found.append(
            {
                "id": "shells",
                "title": "Sign by distance",
                "note": "Mean of the signed map inside the lesion and in two shells around it; bars are 95 % patient "
                "bootstraps of the mean over patients. By mean these values shrink as lesions grow: read the sign.",
                "figure": _shells(table, shells, outcomes, units),
            }
        )
    for channel in explained[:1]:
        for column, title, logarithmic in (
            ("volume_mm3", "volume, mm³", True),
            ("probability_mean", "mean probability", False),
        ):
            if column in table:
                named = what.split(" ")[0]
                found.append(
                    {
                        "id": f"effect-{column.replace('_', '-')}",
                        "title": f"{named} of {channel} against {title.split(',')[0]}",
                        "note": "A difference between outcomes that disappears at equal size or probability adds nothing "
                        "to them.",
                        "figure": _scatter(
                            table, column, f"{measure}_{channel}", outcomes, title, axis.format(channel), logarithmic
                        ),
                    }
                )
    for chart in found:
        chart["lesions"] = any("customdata" in trace for trace in chart["figure"]["data"])
    return found


def _measured(table: pd.DataFrame, channels: Sequence[str]) -> tuple[str, list[str]]:
    """The number that lesions are compared by, and the channels that have it: effects, or peaks where no map has effects."""
    for measure in ("effect_in", "peak"):
        known = [c for c in channels if f"{measure}_{c}" in table and table[f"{measure}_{c}"].notna().any()]
        if known:
            return measure, known
    return "peak", []


def _points(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "customdata": [[scan, int(lesion)] for scan, lesion in zip(rows["scan"], rows["lesion"], strict=True)],
        "hovertemplate": "%{customdata[0]}, lesion %{customdata[1]}<br>%{y:.3g}<extra></extra>",
    }


def _drawn(rows: pd.DataFrame, of: int) -> pd.DataFrame:
    """The lesions that are drawn as points: all, or each outcome's part of `MOST_POINTS` where there are more."""
    if of <= MOST_POINTS or rows.empty:
        return rows
    return rows.sample(max(1, round(len(rows) * MOST_POINTS / of)), random_state=SEED)


def _finish(figure: go.Figure) -> dict[str, Any]:
    figure.update_layout(
        template="none",
        height=400,
        margin={"l": 80, "r": 12, "t": 12, "b": 48},
        font={"size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"font": {"size": 13}},
        legend={"orientation": "h", "y": -0.24, "yanchor": "top"},
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
        points = _drawn(rows, len(table))
        figure.add_box(
            x=[place],
            **_box(values.to_numpy()),
            width=0.5,
            fillcolor=palette.faint(colour, 0.15),
            line={"color": colour, "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=(place + rng.uniform(-0.2, 0.2, len(points))).tolist(),
            y=points[column].astype(float).tolist(),
            mode="markers",
            showlegend=False,
            marker={"color": colour, "size": 7, "line": {"color": "rgba(0,0,0,.45)", "width": 0.6}},
            **_points(points),
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
        rows = _drawn(rows, len(table))
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


def _box(values: np.ndarray) -> dict[str, Any]:
    """Quartiles, and whiskers to the farthest value within 1.5 interquartile ranges (Tukey)."""
    low, middle, high = (float(q) for q in np.percentile(values, [25, 50, 75]))
    reach = 1.5 * (high - low)
    inside = values[(values >= low - reach) & (values <= high + reach)]
    fences = {"lowerfence": [float(inside.min())], "upperfence": [float(inside.max())]}
    return {"q1": [low], "median": [middle], "q3": [high], **fences}


def _bars(means: Sequence[Any]) -> dict[str, Any]:
    up = [max(mean.high - mean.estimate, 0) if np.isfinite(mean.high) else 0.0 for mean in means]
    down = [max(mean.estimate - mean.low, 0) if np.isfinite(mean.low) else 0.0 for mean in means]
    return {
        "error_y": {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.6, "width": 4}
    }


def _units(columns: Any, channels: Sequence[str]) -> str:
    entry = columns.get(f"peak_{channels[0]}", {}) if channels else {}
    return short_units(str(entry.get("Units", ""))) if isinstance(entry, dict) else ""
