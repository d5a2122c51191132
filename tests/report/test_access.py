"""What can be tested of accessibility without an audit tool: names, roles, contrast, focus, keys."""

from itertools import pairwise

import pytest

from lesionwise.geometry.volume import ScanName
from lesionwise.report.writing import write_reports

pytestmark = pytest.mark.browser

CONTROLS = "a[href], button, input, select, summary, [tabindex]"

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const left = "script, style, svg, .planes, .stage, [aria-hidden=true], .unseen, .skip";
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !node.checkVisibility() || node.closest(left)) continue;
    const [a, b] = [light(rgba(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), text.slice(0, 40)]);
  }
  return found;
}"""
"""Contrast (WCAG 2) of every visible text on its ground, with the text."""


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


def test_every_control_has_a_name(page, open_page):
    opened = open_page(page)
    unnamed = """(controls) => [...document.querySelectorAll(controls)].filter((node) => node.checkVisibility() && !(
      node.textContent.trim() || node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") || node.title ||
      (node.labels && node.labels.length) || node.closest(".plot"))).map((node) => node.outerHTML.slice(0, 80))"""
    assert opened.page.evaluate(unnamed, CONTROLS) == []
    headings = opened.page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map((node) => Number(node.tagName[1]))"
    )
    assert headings.count(1) == 1
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    assert opened.page.evaluate("document.querySelectorAll('main').length") == 1
    assert opened.page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page, open_page, theme):
    opened = open_page(page, color_scheme=theme)
    contrasts = opened.page.evaluate(CONTRASTS)
    assert len(contrasts) > 30
    assert [each for each in contrasts if each[0] < 4.5] == []


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
