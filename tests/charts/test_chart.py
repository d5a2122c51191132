import colorsys
import json

import numpy as np
import pytest

from lesionwise.charts.chart import Bar, Chart, Heat, Line, Panel, Violin
from lesionwise.charts.interactive import plotly_json
from lesionwise.charts.palette import OUTCOMES, SERIES, outcome_style, rgb, series_colour
from lesionwise.charts.printed import draw
from lesionwise.charts.saving import save_chart

LESIONS = (("sub-1", 1), ("sub-1", 2), ("sub-2", 1), ("sub-2", 9))
CHART = Chart(
    "example",
    "An example",
    (
        Panel(
            "lines", "x (mm)", "y",
            [Line("a", [0, 1, 2], [0.0, 1, np.nan], [0, 0.5, 0], [1, 2, 1]), Line("ref", [0, 1], [1, 2], reference=True)],
            zero_line=True,
        ),
        Panel(
            "violins", "", "peak",
            [Violin("TP", [1.0, np.nan, 3, 4], lesions=LESIONS), Violin("none", [])],
        ),
        Panel("bars", "", "share", [Bar("FLAIR", 0.7, 0.6, 0.8), Bar("T1w", 0.3)], x_marks=[(0.5, "here")]),
        Panel("heat", "dose", "radius", [Heat(["1", "2"], ["3"], np.array([[0.1, 0.9]]), "share", (0, 1))]),
    ),
    "A caption.",
)  # fmt: skip


def test_it_is_written_for_print_and_for_the_page(tmp_path):
    files = {path.name: path.read_bytes() for path in save_chart(CHART, tmp_path)}
    assert files["example.pdf"].startswith(b"%PDF")
    assert files["example.png"].startswith(b"\x89PNG")
    page = json.loads(files["example.plotly.json"])
    assert page["layout"]["meta"]["caption"] == "A caption."
    assert {trace["type"] for trace in page["data"]} == {"scatter", "violin", "bar", "heatmap"}
    assert not list(tmp_path.glob(".*"))


def test_missing_values_are_null_on_the_page():
    page = json.loads(plotly_json(CHART))
    curve = next(
        trace
        for trace in page["data"]
        if trace.get("name") == "a" and trace.get("mode") == "lines" and trace.get("showlegend")
    )
    assert curve["y"] == [0.0, 1.0, None]


def test_points_that_are_lesions_say_which():
    page = json.loads(plotly_json(CHART))
    violin, empty = (trace for trace in page["data"] if trace["type"] == "violin")
    assert list(map(tuple, violin["customdata"])) == list(LESIONS)
    assert violin["y"] == [1.0, None, 3.0, 4.0]
    assert "customdata" not in empty


def test_series_are_never_red_or_blue_which_mean_for_and_against():
    for colour in SERIES:
        hue, saturation, _ = colorsys.rgb_to_hsv(*(part / 255 for part in rgb(colour)))
        strong = saturation > 0.45
        assert not (strong and (hue < 0.06 or hue > 0.94 or 0.5 < hue < 0.72)), colour
    assert len(set(SERIES)) == len(SERIES)
    assert series_colour(len(SERIES)) == SERIES[0]


def test_outcomes_look_the_same_in_print_and_on_the_page():
    """An outcome had one colour on the page and another in print: TN was green here, TP there."""
    violin = Chart("one", "One", (Panel("", "", "", [Violin("TP", [1.0, 2, 3], outcome_style("TP").colour)]),))
    page = json.loads(plotly_json(violin))
    assert page["data"][0]["line"]["color"] == OUTCOMES["TP"].colour
    drawn = draw(violin).axes[0].collections[0].get_facecolor()[0][:3]
    np.testing.assert_allclose(255 * drawn, rgb(OUTCOMES["TP"].colour), atol=1)


@pytest.mark.parametrize("second", ["agrees", "differs"])
def test_keys_of_lines_lie_beside_the_panels_never_over_them(second):
    """Curves that fill their panels leave no room inside; panels whose styles differ have a key each."""
    full = [Line(name, [0, 1], [n, 1 - n], [0, 0], [1, 1]) for n, name in enumerate(("first", "second"))]
    panels = [Panel("one", "x", "y", full), Panel("two", "x", "y", full if second == "agrees" else full[::-1])]
    figure = draw(Chart("full", "Full", panels))
    figure.draw_without_rendering()
    keys = figure.legends or [axes.get_legend() for axes in figure.axes]
    assert len(keys) == (1 if second == "agrees" else 2)
    for key in keys:
        assert not any(key.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_long_names_leave_a_table_of_values_room():
    names = [f"a method with a rather long name {n}" for n in range(12)]
    bars = [Bar(name, 0.5) for name in names]
    heat = Heat(["t1w", "context", "suppressor", "size"], names, np.full((12, 4), 0.25), "share", (0, 1))
    figure = draw(Chart("long", "Long", [Panel("", "", "", bars, horizontal=True), Panel("", "", "", [heat])]))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[1].texts]
    assert len(boxes) == 48
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[n + 1 :])


def test_letters_on_an_outcome_can_be_read():
    for style in OUTCOMES.values():
        light, dark = sorted((_luminance(style.colour), _luminance(style.ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, style


def _luminance(colour: str) -> float:
    return sum(weight * (part / 255) ** 2.2 for weight, part in zip((0.2126, 0.7152, 0.0722), rgb(colour), strict=True))
