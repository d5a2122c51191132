"""The cohort's page: sealed, linked, and honest about which points it shows."""

import pytest

from lesionwise.report.group import cohort_table, figures
from lesionwise.report.page import write_reports


@pytest.fixture(scope="module")
def cohort(make_out, tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort")
    for number in range(3):
        make_out(out, subject=f"{number:02d}", seed=number, size=40, lesions=6)
    return out


def test_every_explained_lesion_is_one_point_of_its_outcome(cohort):
    table = cohort_table(cohort)
    first = figures(table, ("FLAIR", "T1w"), units="u")[0]["figure"]
    drawn = [tuple(point[1:]) for trace in first["data"] for point in trace.get("customdata", [])]
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


@pytest.mark.browser
def test_a_point_opens_its_lesion_and_nothing_leaves_the_page(cohort, open_page):
    write_reports(cohort)
    opened = open_page(cohort / "report.html")
    assert opened.outside == []
    assert opened.errors == []
    assert [text for kind, text in opened.messages if kind == "error"] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1280
    opened.page.evaluate(
        """() => { const host = document.getElementById('peaks-0');
        host.emit('plotly_click', { points: [{ customdata: ['sub-01/anat/sub-01_report.html#lesion-3', 'sub-01', 3] }] }); }"""
    )
    opened.page.wait_for_selector("html[data-shown='3']", state="attached", timeout=20_000)
    assert opened.page.inner_text("h1") == "sub-01"


@pytest.mark.browser
def test_a_scan_page_knows_the_cohort(cohort, open_page):
    page = write_reports(cohort)[0]
    opened = open_page(page)
    assert "% of the cohort" in opened.page.inner_text("#distribution")
