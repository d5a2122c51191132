"""report, figure and experiment on a finished scan, through the command line."""

import pytest

from lesionwise.attribution import SmoothGrad
from lesionwise.cli.main import main
from lesionwise.units import Settings, explain_case


@pytest.fixture(scope="module")
def out(small_case, bright_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    explain_case(bright_model, small_case, Settings(method=SmoothGrad(n_samples=2), lesions="largest:2"), out=folder)
    return folder


def test_report_writes_the_page(out, capsys):
    assert main(["report", str(out)]) == 0
    assert "report.html" in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Research use only" in page


def test_figure_draws_a_panel(out, capsys, tmp_path):
    assert main(["figure", str(out), "--lesion", "1", "-f", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "/nowhere"], "/nowhere"),
        (["figure", "/nowhere", "--lesion", "1"], "/nowhere"),
        (["figure", "OUT", "--lesion", "999"], "999"),
        (["figure", "OUT", "--lesion", "1", "--scan", "sub-none"], "sub-none"),
        (["experiment", "magic", "/nowhere", "/tmp/never"], "magic"),
    ],
)
def test_mistakes_are_sentences(out, capsys, arguments, sentence):
    code = main([str(out) if part == "OUT" else part for part in arguments])
    captured = capsys.readouterr()
    assert code == 2
    assert sentence in captured.err
    assert "Traceback" not in captured.err


def test_verdicts_of_triage_reach_the_report(out):
    from lesionwise.io.derivative import ScanFiles, list_scans, read_scan
    from lesionwise.report.scene import scene_of
    from lesionwise.report.verdicts import Verdict

    name = list_scans(out)[0]
    path = ScanFiles(out, name).path("triage.tsv")
    lines = [
        "lesion\toutcome\ttriage_p_false\ttriage_verdict\ttriage_reasons",
        "1\tTP\t0.83\tprobably false\ta bright vessel",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        rows = scene_of(read_scan(out, name)).lesions.set_index("lesion").to_dict(orient="index")
    finally:
        path.unlink()
    assert Verdict.of(rows[1]) == Verdict("probably false", "83 % likely", reasons=("a bright vessel",), false=True)
    assert Verdict.of(rows[2]) is None
