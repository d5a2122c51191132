"""The README's picture: the report of `lesionwise demo`, as a browser shows it.

    python scripts/report_picture.py demo-output/derivatives/report.html
    python scripts/report_picture.py PAGE --to docs/images/cohort.png [--part CSS_SELECTOR]     # another page, or part of it

writes docs/images/report.png and, beside it, what the picture was made from: a test compares that with the page's sources, so
that the picture is made anew when they change. Needs Chromium and playwright.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "report.png"
SOURCES = ("src/lesionwise/report/assets", "src/lesionwise/report/narrative.py", "src/lesionwise/charts/palette.py")
"""What decides how the page looks and what it says."""


def fingerprint(root: Path = ROOT) -> str:
    """Hash of the sources, whatever the line endings."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = root / source
        for each in sorted(path.iterdir()) if path.is_dir() else [path]:
            digest.update(each.name.encode() + b"\0" + each.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def take(page: Path, picture: Path, *, lesion: int | None = None, part: str | None = None) -> None:
    """A screenshot of the page's first screen, 1280 x 800, light; or of one element."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--hide-scrollbars", "--font-render-hinting=none"],
        )
        context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
        shown = context.new_page()
        shown.goto(page.resolve().as_uri() + (f"#lesion-{lesion}" if lesion else ""))
        shown.wait_for_selector("html[data-ready=true]", state="attached", timeout=60_000)
        shown.wait_for_timeout(300)
        (shown if part is None else shown.locator(part).first).screenshot(path=picture)
        browser.close()


def main() -> None:
    """Takes the picture; that of the README with what it was made from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--lesion", type=int, help="another than the page opens with")
    parser.add_argument("--to", type=Path, default=PICTURE)
    parser.add_argument("--part", help="CSS selector of the element to show")
    given = parser.parse_args()
    take(given.page, given.to, lesion=given.lesion, part=given.part)
    if given.to == PICTURE:
        facts = {"made_with": "scripts/report_picture.py", "page": "lesionwise demo", "sources": fingerprint()}
        PICTURE.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"{given.to} {given.to.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
