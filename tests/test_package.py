"""The package as a whole: light to import, honest about its names, documented by what runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lesionwise
from lesionwise.io.nifti import write_image

ROOT = Path(__file__).parents[1]


def _fresh(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin"},
    ).stdout


@pytest.mark.parametrize("module", ["lesionwise", "lesionwise.report.page", "lesionwise.stats", "lesionwise.store"])
def test_loads_without_torch(module):
    assert _fresh(f"import sys, {module}; print('torch' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("name", lesionwise.__all__)
def test_every_public_name_exists_and_is_documented(name):
    if name in ("run_experiment",):
        pytest.importorskip("lesionwise.experiments.run")
    thing = getattr(lesionwise, name)
    assert name == "__version__" or thing.__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="nothing"):
        lesionwise.nothing  # noqa: B018


@pytest.mark.slow
def test_python_of_the_readme_runs(small_case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, data in (("flair.nii.gz", small_case.image.data[0]), ("t1.nii.gz", small_case.image.data[1])):
        write_image(tmp_path / file, data, small_case.image.affine)
    write_image(tmp_path / "mask.nii.gz", small_case.reference, small_case.image.affine, dtype=bool)
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = block.group(1).replace("n_samples=50", "n_samples=2").replace("largest:5", "largest:1")
    scope: dict = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert len(scope["result"].maps) == 1
    assert (tmp_path / "out/report.html").is_file()


def test_readme_names_only_files_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
