"""The page of one scan, opened in headless Chromium: what it shows, what it asks for, what it gives away."""

import base64
import io
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lesionwise.io.derivative import read_scan
from lesionwise.report.anatomy import display_window
from lesionwise.report.page import write_scan_report
from lesionwise.report.privacy import without_paths
from lesionwise.report.scene import read_scene
from lesionwise.report.writing import write_reports

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(open_page, page_file):
    return open_page(page_file)


def panel_pixels(opened, plane="axial", channel="FLAIR"):
    """RGBA of one panel as an array."""
    selector = f"canvas[data-plane={plane}][data-channel={channel}]"
    address = opened.page.evaluate("selector => document.querySelector(selector).toDataURL('image/png')", selector)
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return np.asarray(picture.convert("RGBA")).astype(np.int16)


def test_nothing_is_asked_for_and_nothing_goes_wrong(opened):
    opened.page.click("#open-3d")
    opened.page.wait_for_timeout(300)
    for label in (3, 7, 12):
        opened.choose(label)
    assert opened.outside == []
    assert opened.errors == []
    assert [text for kind, text in opened.messages if kind == "error"] == []


def test_the_policy_forbids_requests_even_if_asked(opened):
    refused = opened.page.evaluate("fetch('https://example.org/').then(() => false, () => true)")
    assert refused
    assert any("Content Security Policy" in text for _, text in opened.messages)


def test_panels_show_the_head_and_the_map(opened):
    opened.choose(2)
    with_map = panel_pixels(opened)
    assert with_map[..., :3].std() > 20
    opened.page.keyboard.press(" ")
    opened.settle()
    without = panel_pixels(opened)
    assert np.abs(with_map - without).max() > 60
    grey = np.ptp(without[..., :3], axis=-1)
    assert (grey > 40).mean() < 0.02, "without the map only contours are coloured"


def test_choosing_a_lesion_moves_the_crosshair_onto_it_in_mm(opened, out):
    scene = read_scene(*out)
    for label in (1, 5, 12):
        opened.page.click(f".pick[data-label='{label}']")
        opened.page.wait_for_selector(f"html[data-shown='{label}']", state="attached")
        opened.settle()
        mm = [float(part) for part in opened.page.get_attribute("#mm", "data-mm").split()]
        voxel = np.linalg.inv(scene.affine) @ [*mm, 1]
        assert scene.labels[tuple(np.round(voxel[:3]).astype(int))] == label
        assert f"Lesion {label}" in opened.page.inner_text("#lesion-title")


def test_a_click_on_a_panel_reads_the_voxel_under_it(opened, out):
    scene = read_scene(*out)
    opened.choose(4)
    box = opened.page.locator("canvas[data-plane=axial][data-channel=FLAIR]").bounding_box()
    scale = min(box["width"], box["height"]) / opened.page.evaluate("LW.state.fov_mm")
    before = [float(part) for part in opened.page.get_attribute("#mm", "data-mm").split()]
    opened.page.mouse.click(box["x"] + box["width"] / 2 + 10 * scale, box["y"] + box["height"] / 2 - 6 * scale)
    opened.settle()
    after = [float(part) for part in opened.page.get_attribute("#mm", "data-mm").split()]
    # Radiological: the right of the picture is the patient's left (-x); up is anterior (+y).
    assert np.allclose(np.subtract(after, before), [-10, 6, 0], atol=0.51)
    voxel = np.round(np.linalg.inv(scene.affine) @ [*after, 1])[:3].astype(int)
    assert f"FLAIR {scene.images['FLAIR'][tuple(voxel)]:.2g}"[:7] in opened.page.inner_text("#values").replace("−", "-")


def test_map_values_in_the_page_are_those_of_the_file(opened, out):
    scene = read_scene(*out)
    saliency = scene.saliency(2, "smoothgradmean")
    opened.choose(2)
    peak = np.unravel_index(saliency.channel("FLAIR").argmax(), saliency.box.shape)
    frame_start = np.round(np.linalg.inv(scene.affine) @ [*opened.page.evaluate("LW.toMm([0, 0, 0])"), 1])[:3].astype(
        int
    )
    voxel = [int(a + b - c) for a, b, c in zip(peak, saliency.box.start, frame_start, strict=True)]
    for channel in ("FLAIR", "T1w"):
        shown = opened.page.evaluate("([c, v]) => LW.state.map.at(c, ...v, 0)", [channel, voxel])
        assert shown == pytest.approx(float(saliency.channel(channel)[peak]), rel=2e-3)


def test_one_colour_limit_for_all_lesions(opened):
    limits = set()
    for label in (1, 4, 8):
        opened.choose(label)
        limits.add((opened.page.inner_text("#limit-low"), opened.page.inner_text("#limit-high")))
    assert len(limits) == 1
    low, high = limits.pop()
    assert low.strip("≤ −") == high.strip("≥ +")
    assert opened.page.get_attribute("#limit-unit", "title").startswith(
        "log-odds per SD of the channel, times the voxels"
    )
    assert opened.page.inner_text("#limit-unit") == "log-odds per SD × its voxels"


def test_sides_swap_with_the_convention(opened):
    opened.choose(1)
    radiological = panel_pixels(opened)
    assert "right is on the left" in opened.page.inner_text("#convention-words")
    opened.page.select_option("#convention", "neurological")
    opened.settle()
    assert "left is on the left" in opened.page.inner_text("#convention-words")
    mirrored = panel_pixels(opened)[:, ::-1]
    middle = slice(60, -120)
    # Letters, locator and bar stay upright; the anatomy between them is the mirror image.
    assert np.abs(radiological - mirrored)[40:160, middle].mean() < 4
    assert np.abs(radiological - mirrored[:, ::-1])[40:160, middle].mean() > 6


def test_sorting_filtering_and_keys(opened):
    labels = "[...document.querySelectorAll('#lesion-rows tr')].map(row => Number(row.dataset.label))"
    opened.page.click("#lesion-head button:has-text('mm³')")
    volumes = opened.page.evaluate("LW.list.visible().map(lesion => lesion.row.volume_mm3)")
    assert volumes == sorted(volumes, reverse=True)
    opened.page.click("[data-outcome=FP]")
    assert sorted(opened.page.evaluate(labels)) == [3, 8]
    opened.page.keyboard.press("j")
    opened.settle()
    first = opened.page.evaluate("LW.state.label")
    opened.page.keyboard.press("j")
    opened.settle()
    assert {first, opened.page.evaluate("LW.state.label")} == {3, 8}
    opened.page.keyboard.press("k")
    opened.settle()
    assert opened.page.evaluate("LW.state.label") == first


def test_snr_mask_and_threshold_hide_voxels(opened):
    opened.choose(2)
    count = "LW.state.map ? 1 : 0"
    assert opened.page.evaluate(count) == 1
    plain = panel_pixels(opened)
    opened.page.evaluate(
        "document.getElementById('snr').value = 6; document.getElementById('snr').dispatchEvent(new Event('input'))"
    )
    opened.settle()
    coloured = [(np.ptp(panel[..., :3], axis=-1) > 25).sum() for panel in (plain, panel_pixels(opened))]
    assert coloured[1] < coloured[0]


def test_ids_are_unique_and_images_are_named(opened):
    ids = opened.page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    unnamed = opened.page.evaluate(
        "[...document.querySelectorAll('[role=img]:not([hidden])')].filter(node => !node.getAttribute('aria-label')).length"
    )
    assert unnamed == 0
    unlabelled = opened.page.evaluate(
        "[...document.querySelectorAll('input, select')].filter(node => !node.labels.length).map(node => node.id)"
    )
    assert unlabelled == []


def test_the_brain_is_shown_as_bright_as_a_reader_expects_beside_bright_fat():
    """Of a head in its scalp the fat is the brightest: the window is that of what lies deep."""
    grid = np.indices((64, 64, 64)) - 31.5
    radius = np.sqrt((grid**2).sum(axis=0))
    image = np.select([radius < 22, radius < 26, radius < 30], [400.0 + 3 * radius, 30.0, 3000.0], 0.0)
    low, high = display_window(image, (3.0, 3.0, 3.0))
    assert (low, high) == (0.0, pytest.approx(460, rel=0.08))


def middle_of_a_panel(opened):
    """In the window, scrolled there: the controls below the images scroll them away."""
    canvas = opened.page.locator("canvas[data-plane=axial][data-channel=FLAIR]")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_one_large_plane_lesion_zoom_window_and_lines_of_probability(opened):
    opened.choose(5)
    before = panel_pixels(opened)
    opened.page.click("#zoom-lesion")
    opened.settle()
    assert opened.page.evaluate("LW.state.fov_mm") == pytest.approx(30, abs=3)
    assert np.abs(panel_pixels(opened) - before).mean() > 2
    plain = panel_pixels(opened)
    opened.page.check("#probability")
    opened.settle()
    assert np.abs(panel_pixels(opened) - plain).max() > 60
    assert "p 0.5" in opened.page.inner_text("#outlines")
    opened.page.check("#blur")
    opened.settle()
    assert opened.errors == []
    x, y = middle_of_a_panel(opened)
    opened.page.mouse.move(x, y)
    opened.page.mouse.down(button="right")
    opened.page.mouse.move(x + 30, y + 40)
    opened.page.mouse.up(button="right")
    assert opened.page.evaluate("Object.keys(LW.state.windows)") == ["FLAIR"]
    opened.page.click("#window-reset")
    assert opened.page.evaluate("Object.keys(LW.state.windows)") == []
    opened.page.mouse.dblclick(*middle_of_a_panel(opened))
    opened.settle()
    assert opened.page.locator("#planes canvas:visible").count() == 1
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("#planes canvas:visible").count() == 6


def test_reviewed_marks_are_kept_in_the_browser_and_a_finding_is_text(opened):
    opened.choose(3)
    opened.page.keyboard.press("r")
    assert opened.page.inner_text("#review-status") == "1 of 12 reviewed"
    assert opened.page.locator("tr.reviewed").count() == 1
    opened.page.reload()
    opened.page.wait_for_selector("html[data-ready=true]", state="attached")
    assert opened.page.locator("tr.reviewed").get_attribute("data-label") == "3"
    finding = opened.page.evaluate("LW.review.finding(LW.byLabel.get(3))")
    assert "lesion 3 (FP)" in finding
    assert "One SD brighter throughout it moves its log-odds" in finding


def test_the_list_sorts_by_what_does_not_follow_size(opened):
    heads = opened.page.locator("#lesion-head th").all_inner_texts()
    assert any("Effect FLAIR" in head for head in heads)
    assert not any("Peak" in head for head in heads)
    assert opened.page.locator("tr[data-label='4'] td:nth-child(4)").inner_text() == "< 0.01"


def test_a_phone_holds_the_page(open_page, page_file):
    opened = open_page(page_file, width=390, height=844)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_fits_a_screen_and_a_tablet(open_page, page_file):
    for width, height in ((1280, 800), (1024, 768), (768, 1024), (1920, 1080)):
        opened = open_page(page_file, width=width, height=height)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        bottom = opened.page.locator("canvas[data-plane=axial][data-channel=T1w]").bounding_box()
        assert bottom["y"] + bottom["height"] <= height, "both images and the sentence are seen without scrolling"


def test_what_the_page_must_say_and_must_not(page_file, out):
    text = page_file.read_text(encoding="utf-8")
    assert "Research use only, not a medical device" in text
    assert "This file embeds the scan" in text
    assert str(out[0]) not in text
    assert "formula" in text
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*[\"'](?!data:|#)", text)


def test_a_hostile_name_and_note_do_not_run(make_out, tmp_path, open_page):
    hostile = "<img src=x onerror=alert(1)>"
    name = make_out(
        tmp_path, subject=hostile.replace("/", ""), lesions=2, note=f"{hostile}</script><script>window.bad=1</script>"
    )
    path = write_scan_report(tmp_path, name, tmp_path / "report.html")
    opened = open_page(path)
    assert opened.page.evaluate("window.bad") is None
    assert opened.outside == []
    assert opened.page.inner_text("h1") == f"sub-{hostile}"
    assert opened.page.locator("img").count() == 0


def test_a_scan_without_reference_and_one_without_images(make_out, tmp_path, open_page):
    name = make_out(tmp_path, lesions=3, reference=False)
    for source in (tmp_path / "sources").iterdir():
        source.unlink()
    opened = open_page(write_reports(tmp_path)[0])
    assert name.stem in opened.page.title()
    assert "no reference was given" in opened.page.inner_text("#headline")
    assert "could not be found" in opened.page.content()
    assert opened.errors == []


def test_paths_are_cut():
    assert without_paths("read /data/jane_doe/x.nii.gz and C:\\scans\\y.nii") == "read x.nii.gz and y.nii"
    assert without_paths("log-odds/SD, https://doi.org/10.1/x") == "log-odds/SD, https://doi.org/10.1/x"
    json.dumps(without_paths("no path"))


def test_prints_two_pages(make_out, tmp_path, open_page):
    name = make_out(tmp_path, lesions=40)
    opened = open_page(write_scan_report(tmp_path, name, tmp_path / "report.html"))
    pdf = opened.page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 2
    # Before paper the planes are drawn anew: square as their place on it, at 300 dots per inch.
    sizes = """() => { dispatchEvent(new Event('beforeprint'));
      const found = LW.panels.map(({ canvas }) => [canvas.width, canvas.height]);
      dispatchEvent(new Event('afterprint')); return [found, LW.printSide(2, false)]; }"""
    drawn, side_mm = opened.page.evaluate(sizes)
    assert drawn == [[round(side_mm / 25.4 * 300)] * 2] * 6
    opened.settle()
    assert panel_pixels(opened).shape[1] == opened.page.evaluate("LW.panels[0].canvas.clientWidth")


def test_triage_is_shown_sorted_and_filtered(make_out, tmp_path, open_page):
    name = make_out(tmp_path, lesions=4)
    rows = ["lesion\toutcome\ttriage_p_false\ttriage_verdict\ttriage_reasons"]
    rows += [f"{n}\tTP\t0.{n}\t{'probably false' if n == 3 else 'keep'}\tsmall <b>& thin</b>" for n in (1, 2, 3)]
    (tmp_path / name.folder / f"{name.stem}_triage.tsv").write_text("\n".join(rows) + "\n")
    opened = open_page(write_scan_report(tmp_path, name, tmp_path / "report.html"))
    opened.choose(3)
    assert "probably false (30 % likely) because small <b>& thin</b>." in opened.page.inner_text("#triage")
    assert opened.page.locator(".doubted[title]").all_inner_texts() == ["0.30"]
    opened.page.click("#lesion-head button:has-text('p false')")
    assert opened.page.evaluate("LW.list.visible().map(lesion => lesion.label)") == [3, 2, 1, 4]
    opened.page.check("#kept")
    assert opened.page.evaluate("LW.list.visible().map(lesion => lesion.label)") == [2, 1, 4]


def test_an_oblique_flipped_scan_keeps_its_millimetres(make_out, tmp_path, open_page):
    angle = 0.4
    affine = np.eye(4)
    tilt = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    affine[:3, :3] = (np.array(tilt) @ np.diag([-0.9, 1.1, 1.4]))[:, [2, 0, 1]]
    affine[:3, 3] = (20, -30, 10)
    name = make_out(tmp_path, affine=affine, size=48, lesions=6)
    opened = open_page(write_scan_report(tmp_path, name, tmp_path / "report.html"))
    labels = read_scan(tmp_path, name).labels
    for label in (1, 3, 6):
        opened.choose(label)
        mm = [float(part) for part in opened.page.get_attribute("#mm", "data-mm").split()]
        voxel = tuple(np.round(np.linalg.inv(affine) @ [*mm, 1])[:3].astype(int))
        assert labels[voxel] == label
        assert opened.page.inner_text("#voxel") == ", ".join(str(v) for v in voxel)
    assert "tilted by 23°" in opened.page.inner_text("#convention-words")


@pytest.mark.slow
def test_thirty_lesions_of_a_whole_head_stay_below_20_mb_and_5_s(make_out, tmp_path, open_page, best_load_ms):
    name = make_out(tmp_path, size=150, lesions=31)
    path = write_scan_report(tmp_path, name, tmp_path / "report.html")
    assert path.stat().st_size < 20e6
    opened = open_page(path)
    assert opened.page.evaluate("LW.scene.lesions.filter(lesion => Object.keys(lesion.maps).length).length") == 30
    assert best_load_ms(path, 5000) < 5000


def test_images_too_large_for_one_file_are_halved_and_stay_in_place(make_out, tmp_path, open_page, monkeypatch):
    monkeypatch.setattr("lesionwise.report.payload.IMAGE_BUDGET_VOX", 1000)
    name = make_out(tmp_path, size=47, lesions=3)
    opened = open_page(write_scan_report(tmp_path, name, tmp_path / "report.html"))
    assert "shown at half resolution" in opened.page.content()
    opened.choose(1)
    image, labels = (
        opened.page.evaluate(f"Array.from(LW.panels[0].data.{what})") for what in ("images.FLAIR", "labels")
    )
    bright, lesion = np.array(image), np.array(labels) > 0
    assert bright.size == lesion.size
    assert bright[lesion].mean() > bright[~lesion & (bright > 0)].mean() + 30


def test_a_scan_without_lesions_is_a_result(make_out, tmp_path, open_page):
    name = make_out(tmp_path, lesions=0)
    opened = open_page(write_scan_report(tmp_path, name, tmp_path / "report.html"))
    assert opened.errors == []
    assert opened.page.inner_text("#headline") == "No lesion was found in this scan."
    assert panel_pixels(opened)[..., :3].std() > 20
    opened.page.keyboard.press("j")
    opened.page.click("#zoom-whole")
    opened.settle()
    assert opened.errors == []
