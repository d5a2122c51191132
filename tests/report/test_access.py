"""Accessibility: the audit of axe-core, focus, keys, what a screen reader hears."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from lesionwise.geometry.volume import ScanName
from lesionwise.report.writing import write_reports

pytestmark = pytest.mark.browser

CONTROLS = "a[href], button, input, select, summary, [tabindex]"


@pytest.fixture(scope="module")
def pages(make_out, triage, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    for number in range(2):
        make_out(out, subject=f"{number:02d}", seed=number, size=32, lesions=4)
    triage(out, ScanName("00"), [(14, 15, 16), (17, 15, 12)], outcomes=["miss", "other"], notes=["It may be off."])
    write_reports(out)
    return {"scan": out / "sub-00" / "anat" / "sub-00_report.html", "group": out / "report.html"}


@pytest.fixture(params=["scan", "group"])
def page(request, pages):
    return pages[request.param]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(page, open_page, theme):
    opened = open_page(page, color_scheme=theme)
    opened.page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    found = Axe().run(opened.page).response
    assert [(rule["id"], [node["html"][:80] for node in rule["nodes"]]) for rule in found["violations"]] == []
    assert {"button-name", "color-contrast", "heading-order"} <= {rule["id"] for rule in found["passes"]}


def test_axe_sees_what_is_faint_and_what_has_no_name(pages, open_page):
    opened = open_page(pages["scan"])
    opened.page.evaluate(
        """() => { document.querySelector("h1").style.color = "#ddd";
        document.querySelector("main").append(document.createElement("button")); }"""
    )
    assert {"button-name", "color-contrast"} <= {rule["id"] for rule in Axe().run(opened.page).response["violations"]}


def test_tab_goes_through_the_page_in_reading_order(page, open_page):
    opened = open_page(page)
    assert (
        opened.page.evaluate(
            'document.querySelectorAll(\'[tabindex]:not([tabindex="0"]):not([tabindex="-1"])\').length'
        )
        == 0
    )
    place = """(controls) => { const node = document.activeElement; node.scrollIntoView({ block: "center" });
      return [[...document.querySelectorAll(controls)].indexOf(node), getComputedStyle(node).outlineStyle]; }"""
    places = []
    for _ in range(12):
        opened.page.keyboard.press("Tab")
        places.append(opened.page.evaluate(place, CONTROLS))
    order = [at for at, _ in places]
    assert order == sorted(order)
    assert len(set(order)) == len(order)
    assert all(outline != "none" for _, outline in places), "focus is seen"


def test_keys_choose_lesions_and_a_screen_reader_hears_of_it(pages, open_page):
    opened = open_page(pages["scan"])
    first = opened.page.evaluate("LW.state.label")
    for key, wanted in (("j", first + 1), ("k", first)):
        opened.page.keyboard.press(key)
        opened.page.wait_for_selector(f"html[data-shown='{wanted}']", state="attached")
        assert opened.page.evaluate("document.querySelector('[aria-current=true]').dataset.label") == str(wanted)
        assert f"Lesion {wanted}" in opened.page.inner_text("[aria-live=polite]")
    assert opened.page.evaluate("LW.state.mapChannel") != "none"
    opened.page.keyboard.press(" ")
    assert opened.page.evaluate("LW.state.mapChannel") == "none"
    opened.page.focus(f".pick[data-label='{first + 2}']")
    opened.page.keyboard.press("Enter")
    opened.page.wait_for_selector(f"html[data-shown='{first + 2}']", state="attached")


def test_what_triage_says_stands_with_the_sentence(pages, open_page):
    opened = open_page(pages["scan"])
    opened.choose(1)
    assert opened.page.inner_text("#triage strong") == "Triage: probably false (71 % likely)"
    assert "Unlike typical true lesions: its highest probability is lower" in opened.page.inner_text("#triage")
    assert opened.page.inner_text("#triage-notes") == "Triage: It may be off."
    assert opened.page.evaluate("document.getElementById('triage-notes').getBoundingClientRect().bottom") < 300


def test_a_faint_map_says_so_and_can_be_brought_up(pages, open_page):
    opened = open_page(pages["scan"])
    assert opened.page.locator("#faint").is_hidden(), "the page opens on a lesion whose map is seen"
    opened.choose(1)
    limit = opened.page.evaluate("LW.state.limit")
    opened.page.evaluate("LW.scene.limits[LW.state.desc].limit *= 50")
    opened.choose(1)
    assert "Faint on the colours that all lesions share" in opened.page.inner_text("#faint")
    opened.page.click("#faint button")
    assert opened.page.evaluate("LW.state.limit") < 2 * limit
    opened.page.click("#faint button")
    assert opened.page.evaluate("LW.state.limit") == pytest.approx(50 * limit)
