"""The README's picture is of the page as it is now."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_shows_the_report_as_it_is():
    spec = importlib.util.spec_from_file_location("report_picture", ROOT / "scripts" / "report_picture.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    facts = json.loads(script.PICTURE.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["sources"] == script.fingerprint(), (
        "The page has changed: run `lesionwise demo` and scripts/report_picture.py, and look at the picture."
    )
    assert script.PICTURE.read_bytes()[:4] == b"\x89PNG"
    assert "docs/images/report.png" in (ROOT / "README.md").read_text(encoding="utf-8")
