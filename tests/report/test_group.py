"""The cohort's page: sealed, linked, and honest about which points it shows."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from lesionwise.charts.chart import Chart, Line, Panel, Violin
from lesionwise.charts.saving import save_chart
from lesionwise.experiments.experiment import Finding, lesions_of
from lesionwise.geometry.volume import ScanName
from lesionwise.io.derivative import write_table
from lesionwise.report.findings import read_findings
from lesionwise.report.group import MOST_POINTS, cohort_table, figures, render_group
from lesionwise.report.writing import write_reports

HOSTILE = "<img src=x onerror=\"window.hacked=1\"><a href='javascript:window.hacked=1'>T1</a>"


@pytest.fixture(scope="module")
def cohort(make_out, tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort")
    for number in range(3):
        make_out(out, subject=f"{number:02d}", seed=number, size=40, lesions=6)
    add_experiment(out)
    standing = pd.DataFrame(
        {"scan": ["sub-02", "sub-01"], "lesion": [4, np.nan], "reason": [f"far {HOSTILE}", "a scan"]}
    )
    write_table(out / "study" / "outliers.tsv", standing)
    return out


def add_experiment(out):
    """What `lesionwise experiment peaks` leaves behind, with one channel of an unfriendly name."""
    table = cohort_table(out).dropna(subset=["peak_FLAIR"])
    marks = [
        Violin(outcome, rows["peak_FLAIR"].to_numpy(), lesions=lesions_of(rows))
        for outcome, rows in table.groupby("outcome")
    ]
    panels = (Panel("FLAIR", "", "peak", marks), Panel(HOSTILE, "mm", "y", [Line(HOSTILE, [0, 1], [0.0, 1])]))
    chart = Chart("peaks", "Peak of the map by outcome", panels, f"Each point is a lesion. {HOSTILE}")
    folder = out / "experiments" / "peaks"
    folder.mkdir(parents=True)
    save_chart(chart, folder)
    finding = Finding(f"Peaks fall from TP to FP. {HOSTILE}")
    (folder / "finding.md").write_text(f"# Do peaks tell?\n\n{finding.text}\n\n![x](peaks.png)\nA caption.\n")
    (folder / "broken.plotly.json").write_text('{"data": 3}')
    (out / "experiments" / "unfinished" / "rows").mkdir(parents=True)


def test_every_explained_lesion_is_one_point_of_its_outcome(cohort):
    table = cohort_table(cohort)
    first = figures(table, ("FLAIR", "T1w"), units="u")[0]["figure"]
    drawn = [tuple(point) for trace in first["data"] for point in trace.get("customdata", [])]
    wanted = table.dropna(subset=["peak_FLAIR"])
    assert sorted(drawn) == sorted(zip(wanted["scan"], wanted["lesion"], strict=True))
    assert len(drawn) == 3 * 5


def test_links_lead_to_pages_that_exist(cohort):
    pages = write_reports(cohort)
    assert pages[-1] == cohort / "report.html"
    for link in cohort_table(cohort)["link"]:
        path, fragment = link.split("#")
        assert (cohort / path).is_file()
        assert fragment.startswith("lesion-")


def test_findings_are_read_and_missing_ones_not_shown(cohort, tmp_path):
    (shown,) = read_findings(cohort / "experiments")
    assert (shown.name, shown.question) == ("peaks", "Do peaks tell?")
    assert shown.text.startswith("Peaks fall from TP to FP.")
    assert "caption" not in shown.text
    assert shown.unreadable == ("broken.plotly.json",)
    points = [tuple(point) for trace in shown.figures[0].figure["data"] for point in trace.get("customdata", [])]
    table = cohort_table(cohort).dropna(subset=["peak_FLAIR"])
    assert sorted(points) == sorted(zip(table["scan"], table["lesion"], strict=True))
    assert "<img" not in json.dumps(shown.figures[0].figure)
    assert read_findings(tmp_path) == []


def test_many_lesions_are_thinned_and_it_is_said():
    count = 2 * MOST_POINTS
    values = np.linspace(0, 1, count)
    table = pd.DataFrame(
        {"peak_FLAIR": values, "outcome": "TP", "scan": "sub-1", "patient": "1", "lesion": range(count)}
    )
    unexplained = pd.DataFrame({"outcome": ["FN"], "scan": "sub-1", "patient": "1", "lesion": count, "volume_mm3": 9.0})
    table = pd.concat([table.assign(volume_mm3=8.0), unexplained], ignore_index=True)
    chart = figures(table, ("FLAIR",), units="u")[0]
    assert f"{MOST_POINTS} of {count + 1} lesions" in chart["note"]
    box, points = chart["figure"]["data"][:2]
    assert len(points["y"]) == pytest.approx(MOST_POINTS, abs=1)
    assert box["median"] == [pytest.approx(0.5)]
    assert (box["q1"], box["upperfence"]) == ([pytest.approx(0.25, abs=1e-3)], [1.0])


def test_a_scan_without_a_page_is_no_link(cohort, tmp_path):
    write_reports(cohort)
    page = cohort / ScanName("02").folder / "sub-02_report.html"
    kept = page.read_bytes()
    page.unlink()
    html = render_group(cohort)
    page.write_bytes(kept)
    assert "1 of 3 have no page yet" in html
    assert 'href="sub-01/anat/sub-01_report.html"' in html
    assert "sub-02_report.html" not in html
    assert 'href="/scan/sub-02#lesion-4"' in render_group(cohort, address_fn=lambda name: f"/scan/{name.stem}")


def point_at(page, host, nth):
    """The middle of one drawn point, in page coordinates."""
    point = page.locator(f"#{host} .points path.point").nth(nth)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.browser
@pytest.mark.parametrize("host", ["effects-0", "experiment-0-0"])
def test_a_click_on_a_point_opens_its_lesion(cohort, open_page, host):
    write_reports(cohort)
    opened = open_page(cohort / "report.html")
    assert opened.outside == []
    assert opened.errors == []
    assert [text for kind, text in opened.messages if kind == "error"] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1280
    ids = opened.page.evaluate("Array.from(document.querySelectorAll('[id]'), (node) => node.id)")
    assert len(ids) == len(set(ids))
    place = point_at(opened.page, host, 0)
    opened.page.mouse.move(*place)
    said = opened.page.locator(f"#{host} .hoverlayer .hovertext tspan.line").first.text_content()
    scan, lesion = re.match(r"(sub-\d+), lesion (\d+)", said).groups()
    opened.page.mouse.click(*place)
    opened.page.wait_for_selector(f"html[data-shown='{lesion}']", state="attached", timeout=20_000)
    assert opened.page.inner_text("h1") == scan


@pytest.mark.browser
def test_hostile_names_stay_text(cohort, open_page):
    write_reports(cohort)
    opened = open_page(cohort / "report.html")
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("a[href^=javascript]").count() == 0
    assert "onerror" in opened.page.inner_text("#experiment-0-0")
    assert opened.page.get_attribute("a:has-text('sub-02, lesion 4')", "href").endswith("sub-02_report.html#lesion-4")


@pytest.mark.browser
def test_a_scan_page_knows_the_cohort(cohort, open_page):
    page = write_reports(cohort)[0]
    opened = open_page(page)
    assert "% of the cohort" in opened.page.inner_text("#distribution")
