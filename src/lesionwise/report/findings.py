"""What the experiments found, read back for the cohort's page: one paragraph and its interactive figures per experiment.

The files are those of `docs/experiments.md`. Their figures are ours, but names in them are not: text is escaped, and only
kinds of traces that our figures use are drawn.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesionwise.charts import palette

FOLDER = "experiments"

ORDER = (
    "peaks",
    "distance",
    "modality",
    "context",
    "architecture",
    "synthetic",
    "sanity",
    "faithfulness",
    "margins",
    "fills",
)
"""The order of the published paper, then ours; others follow by name."""

DRAWN = frozenset({"scatter", "violin", "bar", "heatmap", "box"})

_MARKUP = re.compile(r"<(?!br>|br/>|/?b>|/?i>|extra></extra>|/extra>)")


@dataclass(frozen=True)
class Figure:
    """A plotly figure (`data`, `layout`), its title, what stands below it, and whether its points are lesions."""

    title: str
    note: str
    figure: Mapping[str, Any]
    lesions: bool


@dataclass(frozen=True)
class Shown:
    """One experiment's question, finding and figures; `unreadable` names figures that could not be read."""

    name: str
    question: str
    text: str
    figures: tuple[Figure, ...]
    unreadable: tuple[str, ...] = field(default=())


def read_findings(folder: Path) -> list[Shown]:
    """The experiments below `folder` that have a finding (`NAME/finding.md`), in their usual order; none if it is gone."""
    places = [path.parent for path in Path(folder).glob("*/finding.md")]
    known = {name: number for number, name in enumerate(ORDER)}
    return [_shown(place) for place in sorted(places, key=lambda p: (known.get(p.name, len(ORDER)), p.name))]


def _shown(folder: Path) -> Shown:
    question, text = paragraph((folder / "finding.md").read_text(encoding="utf-8", errors="replace"))
    figures, unreadable = [], []
    for path in sorted(folder.glob("[!.]*.plotly.json")):
        try:
            figures.append(read_figure(path))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            unreadable.append(path.name)
    return Shown(folder.name, question, text, tuple(figures), tuple(unreadable))


def paragraph(markdown: str) -> tuple[str, str]:
    """Heading and first paragraph of `finding.md`.

    >>> paragraph("# Why?\\n\\nBecause.\\n\\n![A](a.png)\\n")
    ('Why?', 'Because.')
    """
    blocks = [" ".join(block.split()) for block in markdown.split("\n\n")]
    heading = next((block.removeprefix("# ") for block in blocks if block.startswith("# ")), "")
    return heading, next((block for block in blocks if block and not block.startswith(("#", "!["))), "")


def read_figure(path: Path) -> Figure:
    """A figure as the page draws it: title and caption taken out, our colours left to the page.

    Raises ValueError, TypeError, KeyError or AttributeError if the file is not such a figure.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    layout = dict(found["layout"])
    title = layout.pop("title", {}).get("text", path.name.removesuffix(".plotly.json"))
    meta = layout.pop("meta", {})
    caption, rows = meta.get("caption", ""), max(1, int(meta.get("rows", 1)))
    for key in ("template", "images", "width", "height"):
        layout.pop(key, None)
    data = [coloured(escaped(trace)) for trace in found["data"] if trace.get("type") in DRAWN]
    for annotation in layout.get("annotations", []):
        annotation.pop("font", None)
    layout |= {
        "height": 120 + 310 * rows,
        "margin": {"l": 70, "r": 12, "t": 34, "b": 40},
        "font": {"size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": -0.18 / rows},
        "showlegend": any(trace["type"] == "scatter" or trace.get("offsetgroup") for trace in data),
    }
    figure = {"data": data, "layout": escaped(layout)}
    return Figure(str(title), str(caption), figure, any("customdata" in trace for trace in data))


def coloured(trace: dict[str, Any]) -> dict[str, Any]:
    """The trace in the page's colour of its outcome, if it stands for one: print and page use different colours.

    >>> coloured({"name": "FP", "line": {"color": "#D55E00", "dash": "dash"}})["line"]
    {'color': '#dfa000', 'dash': 'dash'}
    """
    style = palette.OUTCOMES.get(str(trace.get("legendgroup", trace.get("name"))))
    if style is None:
        return trace
    own = dict(trace)
    for part in ("line", "marker"):
        if "color" in own.get(part, {}):
            own[part] = {**own[part], "color": style.colour}
    if "fillcolor" in own:
        own["fillcolor"] = palette.faint(style.colour, 0.2)
    return own


def escaped(value: Any) -> Any:
    """The same JSON with every `<` of its texts escaped, but for the line breaks and bold type that plotly draws.

    >>> escaped({"name": ["a<br>b", "<img src=x>"]})
    {'name': ['a<br>b', '&lt;img src=x>']}
    """
    if isinstance(value, str):
        return _MARKUP.sub("&lt;", value)
    if isinstance(value, Mapping):
        return {str(key): escaped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [escaped(each) for each in value]
    return value
