"""A chart as files: vector, picture and the page's JSON."""

from pathlib import Path

from lesionwise.charts.chart import Chart
from lesionwise.charts.interactive import plotly_json
from lesionwise.charts.printed import draw
from lesionwise.io.files import write_text, write_whole


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
