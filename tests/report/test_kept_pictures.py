"""The page of the synthetic scan as a picture, on screens and on paper, beside the pictures that were kept."""

import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

BASELINES = Path(__file__).parent / "baselines"
"""Pictures of the synthetic scan; LESIONWISE_KEEP_BASELINES=1 keeps new ones after a change that was looked at."""


def assert_as_kept(picture, name):
    """Compared at a quarter of the size, so that fonts of other machines do not matter but a lost panel does."""
    picture = picture.convert("RGB").resize([n // 4 for n in picture.size], Image.Resampling.BOX)
    kept = BASELINES / f"{name}.png"
    if os.environ.get("LESIONWISE_KEEP_BASELINES"):
        picture.save(kept, optimize=True)
    difference = np.abs(np.asarray(picture, dtype=int) - np.asarray(Image.open(kept), dtype=int)).max(axis=-1)
    assert difference.mean() < 6
    assert (difference > 60).mean() < 0.03


@pytest.mark.parametrize(
    ("name", "width", "height", "scheme"),
    [
        ("light", 1280, 800, "light"),
        ("dark", 1280, 800, "dark"),
        ("tablet", 820, 1180, "light"),
        ("phone", 390, 844, "light"),
    ],
)
def test_the_picture_is_the_one_kept(open_page, page_file, name, width, height, scheme):
    opened = open_page(page_file, width=width, height=height, color_scheme=scheme)
    opened.choose(5)
    assert_as_kept(Image.open(io.BytesIO(opened.page.screenshot())), f"scan-{name}")


def test_the_print_is_the_one_kept(open_page, page_file, tmp_path):
    if shutil.which("pdftoppm") is None:
        pytest.skip("pdftoppm is not installed (poppler-utils)")
    opened = open_page(page_file)
    opened.choose(5)
    opened.page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    subprocess.run(["pdftoppm", "-r", "96", "-png", tmp_path / "report.pdf", tmp_path / "page"], check=True)
    first, second = (Image.open(path) for path in sorted(tmp_path.glob("page-*.png")))
    both = Image.new("RGB", (first.width + second.width, first.height))
    both.paste(first, (0, 0))
    both.paste(second, (first.width, 0))
    assert_as_kept(both, "scan-print")
