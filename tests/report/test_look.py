"""Where a lesion may have been missed: the list leads the planes there, and what triage says of itself is seen."""

import re

import numpy as np
import pytest

from lesionwise.io.derivative import read_scan
from lesionwise.report.page import write_scan_report
from lesionwise.report.payload import Frame
from lesionwise.report.scene import read_scene

pytestmark = pytest.mark.browser


def shown_mm(opened):
    return np.array([float(part) for part in opened.page.get_attribute("#mm", "data-mm").split()])


@pytest.fixture(scope="module")
def oblique(make_out, triage, tmp_path_factory):
    """A tilted, flipped and permuted scan with three likely misses: in the head, outside what is bright, outside."""
    out = tmp_path_factory.mktemp("look")
    angle = 0.4
    affine = np.eye(4)
    tilt = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    affine[:3, :3] = (np.array(tilt) @ np.diag([-0.9, 1.1, 1.4]))[:, [2, 0, 1]]
    affine[:3, 3] = (20, -30, 10)
    name = make_out(out, affine=affine, size=48, lesions=4)
    voxels = np.array([(20, 25, 30), (1, 46, 2), (-5, 10, 10)])
    places = voxels @ affine[:3, :3].T + affine[:3, 3]
    note = "The triage model was fitted on another network: its probabilities may be off."
    triage(out, name, places, outcomes=["miss", "other", "other"], notes=[note])
    return out, name, voxels, places


@pytest.fixture(scope="module")
def page_file(oblique):
    return write_scan_report(*oblique[:2], oblique[0] / "report.html")


@pytest.fixture
def page(page_file, open_page):
    return open_page(page_file)


def test_a_likely_miss_moves_the_planes_to_its_place(page, oblique):
    _, _, voxels, places = oblique
    for rank in (1, 2):
        page.page.click(f"#look-rows button[data-rank='{rank}']")
        page.page.wait_for_selector(f"html[data-look='{rank}']", state="attached")
        assert np.allclose(shown_mm(page), places[rank - 1], atol=1e-2)
        assert page.page.inner_text("#voxel") == ", ".join(map(str, voxels[rank - 1]))
        assert page.page.url.endswith(f"#look-{rank}")
        assert f"Likely miss {rank}" in page.page.inner_text("[aria-live=polite]")
    assert page.errors == []


def test_a_place_outside_the_scan_is_said_and_cannot_be_chosen(page, oblique):
    assert page.page.locator("#look-rows button").count() == 2
    assert "Outside this scan" in page.page.inner_text("#look-rows li:nth-child(3)")
    scene = read_scene(*oblique[:2])
    assert [miss.voxel is None for miss in scene.likely_misses] == [False, False, True]
    box = Frame.of(scene).box
    assert all(a <= v < b for a, v, b in zip(box.start, scene.likely_misses[1].voxel, box.stop, strict=True))


def test_a_ring_marks_the_place(page):
    count = """() => { const c = document.querySelector("canvas[data-plane=axial][data-channel=FLAIR]");
      const { data } = c.getContext("2d").getImageData(c.width / 2 - 40, c.height / 2 - 40, 80, 80);
      let white = 0; for (let n = 0; n < data.length; n += 4) if (data[n] > 235 && data[n + 2] > 235) white++; return white; }"""
    page.page.evaluate("LW.state.crosshair = false; LW.visit(1)")
    page.settle()
    with_ring = page.page.evaluate(count)
    page.page.uncheck("#contours")
    page.settle()
    assert with_ring > page.page.evaluate(count) + 60


def test_keys_step_through_likely_misses_and_back_to_the_lesions(page):
    page.choose(2)
    for rank in (1, 2, 1):
        page.page.keyboard.press("m")
        page.page.wait_for_selector(f"html[data-look='{rank}']", state="attached")
    assert page.page.evaluate("document.querySelectorAll('[aria-current=true]').length") == 1
    page.page.focus("#look-rows button[data-rank='2']")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector("html[data-look='2']", state="attached")
    page.page.keyboard.press("j")
    page.page.wait_for_selector("html[data-shown='3']:not([data-look])", state="attached")
    assert page.page.locator("#look-rows [aria-current]").count() == 0


def test_a_lesion_chosen_just_before_does_not_come_back(page):
    page.page.evaluate("LW.choose(1); LW.visit(1)")
    page.settle()
    assert page.page.evaluate("LW.state.map === null && LW.state.label === null")
    assert page.page.locator("#triage").is_hidden()
    assert page.page.inner_text("#lesion-title") == "FN Likely miss 1"
    page.page.click("#places button")
    page.settle()
    assert "Lesion 1" in page.page.inner_text("#lesion-title")


def test_the_reference_is_told_and_so_are_the_notes(page):
    rows = page.page.locator("#look-rows li").all_inner_texts()
    assert [("not on a missed lesion" in row, "FN" in row) for row in rows] == [
        (False, True),
        (True, False),
        (True, False),
    ]
    page.choose(1)
    told = "Triage: The triage model was fitted on another network: its probabilities may be off."
    assert page.page.inner_text("#triage-notes") == told
    about = page.page.text_content(".about")
    assert "fitted on 20 patients (992 true, 203 false lesions)" in about
    assert "AUC 0.91 [0.86, 0.95], 50 % of the false lesions removed, 3 % of the true lesions lost" in about


def test_without_triage_or_without_places(make_out, triage, tmp_path, open_page):
    name = make_out(tmp_path, size=32, lesions=3, reference=False)
    opened = open_page(write_scan_report(tmp_path, name, tmp_path / "report.html"))
    assert opened.page.locator(".look").count() == 0
    assert opened.page.locator("#triage-notes li").count() == 0
    triage(tmp_path, name, [])
    opened = open_page(write_scan_report(tmp_path, name, tmp_path / "report.html"))
    assert "Triage found no place" in opened.page.inner_text(".look")
    opened.page.keyboard.press("m")
    triage(tmp_path, name, [read_scan(tmp_path, name).lesions.loc[0, ["x_mm", "y_mm", "z_mm"]].to_list()])
    opened = open_page(write_scan_report(tmp_path, name, tmp_path / "report.html"))
    opened.page.keyboard.press("m")
    opened.settle()
    assert "reference" not in opened.page.inner_text(".story")
    assert "missed lesion" not in opened.page.inner_text("#look-rows")
    assert opened.errors == []


def test_ten_likely_misses_still_print_two_pages(make_out, triage, tmp_path, open_page):
    name = make_out(tmp_path, size=40, lesions=24)
    triage(tmp_path, name, [(10 + 2 * n, 20, 20) for n in range(10)], outcomes=["other"] * 10, notes=["A note."])
    opened = open_page(write_scan_report(tmp_path, name, tmp_path / "report.html"))
    for chosen in ("LW.choose(1)", "LW.visit(2)"):
        opened.page.evaluate(chosen)
        opened.settle()
        assert len(re.findall(rb"/Type\s*/Page\b", opened.page.pdf(prefer_css_page_size=True))) == 2
