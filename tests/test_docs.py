"""The documentation: its Python runs, its links lead somewhere, its site loads nothing from elsewhere."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lesionwise

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_pages():
    assert len(PAGES) > 15


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
def test_the_gallery_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / "docs" / "gallery.md")
    assert len(found) >= 4
    scope: dict = {}
    for block in found:
        exec(compile(block, "docs/gallery.md", "exec"), scope)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    loads = r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"'](https?:)?//(?!lesionwise)[^\"']+"
    for page in pages:
        text = re.sub(r"<link[^>]*rel=[\"']?(?:canonical|next|prev)[^>]*>", "", page.read_text(encoding="utf-8"))
        assert not re.search(loads, text), page.name
    assert "explain" in (tmp_path / "api" / "index.html").read_text(encoding="utf-8")


def test_the_version_has_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"]
    assert json.loads((ROOT / "codemeta.json").read_text(encoding="utf-8"))["version"] == lesionwise.__version__
    assert f"\nversion: {lesionwise.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_every_dependency_is_pinned_and_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    asked = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[><=\[ ]", d)[0].lower().replace("_", "-") for d in asked} - {"lesionwise"}
    assert len(names) > 20
    assert names <= pinned, names - pinned
