"""The newcomer test: the walks of CONTRIBUTING.md, in their order."""

import re
from pathlib import Path

import pytest

from lesionwise.attribution import METHODS
from lesionwise.experiments.registry import EXPERIMENTS
from lesionwise.models import zoo

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.mark.slow
def test_the_walks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registries = [(registry, dict(registry)) for registry in (METHODS, EXPERIMENTS, zoo.LOADERS)]
    text = PAGE.read_text(encoding="utf-8")
    walks = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert [walk.splitlines()[0] for walk in walks] == [
        "A method",
        "A loader",
        "An experiment",
        "A feature of triage",
        "A panel of the report",
    ]
    scope: dict = {}
    try:
        for walk in walks:
            (block,) = re.findall(r"```python\n(.*?)```", walk, re.DOTALL)
            exec(compile(block, f"CONTRIBUTING.md: {walk.splitlines()[0]}", "exec"), scope)
    finally:
        for registry, before in registries:
            registry.clear()
            registry.update(before)
