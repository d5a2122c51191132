import json

import numpy as np

from lesionwise.experiments.chart import COLOURS, Bar, Chart, Heat, Line, Panel, Violin, save_chart
from lesionwise.experiments.interactive import plotly_json

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


def test_colours_differ_for_colour_blind_readers_and_in_grey():
    """Okabe-Ito, and lightness of the first four at least a few percent apart, or told apart by dash and marker."""
    assert COLOURS[:3] == ("#0072B2", "#D55E00", "#009E73")
    assert len(set(COLOURS)) == len(COLOURS)
