import pandas as pd
import pytest
from known import Linear, case, segmenter

from lesionwise.attribution import Gradient
from lesionwise.cohort import CohortRunner, Shard
from lesionwise.errors import InputError
from lesionwise.experiments.registry import EXPERIMENTS
from lesionwise.experiments.run import run_experiment
from lesionwise.units import Settings

SMALL = {
    "controls": {},
    "modality": {"ig_steps": 0},
    "distance": {},
    "peaks": {},
    "context": {"distances_mm": (0.0, 3.0), "fills": ("zero",)},
    "architecture": {"windows_vox": (16, 32)},
    "synthetic": {"doses": (1.0,), "radii_mm": (1.5,), "places": 1, "moved": 1},
    "sanity": {"stages": 1, "modes": ("cascading",), "seeds": 0},
    "faithfulness": {"methods": {"gradient": Gradient()}, "fractions": (0.0, 0.5, 1.0), "perturbations": 2},
    "margins": {},
    "fills": {},
}


def run(name, out, *, network=None, cases=None, **options):
    sentences = []
    asks_of_controls = name in ("controls", "fills")
    # One lesion leaves room for controls.
    lesions = {"lesions": (((8, 9, 12), 2),)} if name == "fills" else {}
    finding = run_experiment(
        name,
        segmenter(network or Linear((3.0, 0.0), bias=3.0)),
        cases or [case(n, subject=f"{n:02d}", **lesions) for n in range(2)],
        out,
        settings=Settings(method=Gradient(), lesions="largest:1", controls=2 if asks_of_controls else 0),
        options=options or SMALL[name],
        runner=CohortRunner(announce_fn=sentences.append),
    )
    return finding, sentences


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_writes_its_finding_tables_and_figures(name, tmp_path):
    finding, _ = run(name, tmp_path)
    folder = tmp_path / "experiments" / name
    assert "2 patients" in finding.text
    assert finding.text in (folder / "finding.md").read_text()
    assert (folder / f"{name}_rows.tsv").is_file()
    for table in finding.tables:
        assert (folder / f"{table}.tsv").is_file()
    for chart in finding.charts:
        assert all((folder / f"{chart.name}.{ending}").is_file() for ending in ("pdf", "png", "plotly.json"))
        assert chart.legend.startswith("Network: known")  # figures of one network say which
    assert "nan" not in finding.text


@pytest.mark.parametrize("name", ["modality", "context"])
def test_it_resumes_and_only_what_changed_is_done_again(name, tmp_path):
    first, sentences = run(name, tmp_path)
    assert [s.split(":")[0] for s in sentences] == ["[1/2] sub-00", "[2/2] sub-01"]
    again, sentences = run(name, tmp_path)
    assert again.text == first.text
    assert sentences == ["2 of 2 scans are finished already and are kept."]
    _, sentences = run(name, tmp_path, network=Linear((2.5, 0.0), bias=3.0))
    assert len(sentences) == 2
    _, sentences = run(
        name, tmp_path, network=Linear((2.5, 0.0), bias=3.0), cases=[case(0, subject="00"), case(7, subject="01")]
    )
    assert sentences[0] == "1 of 2 scans are finished already and are kept."
    assert len(sentences) == 2


def test_lesions_are_chosen_as_everywhere(tmp_path):
    run("context", tmp_path)
    rows = pd.read_csv(tmp_path / "experiments" / "context" / "context_rows.tsv", sep="\t")
    assert rows.groupby("scan")["lesion"].nunique().tolist() == [1, 1]


def test_unknown_names_and_options_are_sentences(tmp_path):
    with pytest.raises(InputError, match="modality, distance"):
        run_experiment("phrenology", segmenter(Linear((1.0, 0.0))), [], tmp_path)
    with pytest.raises(InputError, match="no option colour"):
        run("context", tmp_path, colour="red")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_scan_without_lesions_is_a_result(name, tmp_path):
    finding, _ = run(name, tmp_path, cases=[case(0, lesions=())])
    assert finding.text


def test_options_may_be_written_as_on_a_command_line(tmp_path):
    run("context", tmp_path, distances_mm="0,2", fills="zero", frozen="no")
    rows = pd.read_csv(tmp_path / "experiments" / "context" / "context_rows.tsv", sep="\t")
    assert sorted(rows["distance_mm"].unique()) == [0.0, 2.0]
    run("faithfulness", tmp_path, methods="gradient,inputxgradient", perturbations=2, fractions="0,1")
    rows = pd.read_csv(tmp_path / "experiments" / "faithfulness" / "faithfulness_rows.tsv", sep="\t")
    assert {"gradient", "inputxgradient"} < set(rows["method"])
    with pytest.raises(InputError, match="separated by commas"):
        run("context", tmp_path, distances_mm="near,far")
    with pytest.raises(InputError, match="tea leaves"):
        run("faithfulness", tmp_path, methods="tea leaves")


def test_a_scan_that_cannot_be_looked_at_is_left_out_and_counted(tmp_path):
    def gone():
        raise InputError("Expected an image, found none.")

    gone_case = case(1, subject="01")
    calls = []

    def vanishing():
        calls.append(1)
        return gone_case if len(calls) == 1 else gone()

    runner = CohortRunner()
    model = segmenter(Linear((3.0, 0.0), bias=3.0))
    settings = Settings(method=Gradient(), lesions="largest:1")
    finding = run_experiment(
        "modality",
        model,
        [case(0, subject="00"), vanishing],
        tmp_path,
        settings=settings,
        options=SMALL["modality"],
        runner=runner,
    )
    assert "1 patient" in finding.text
    assert runner.left_out == {"sub-01": "Expected an image, found none."}
    folder = tmp_path / "experiments" / "modality"
    assert "1 scan was left out" in (folder / "finding.md").read_text()
    assert "sub-01\trun\tExpected an image, found none." in (folder / "left_out.tsv").read_text()


def test_a_share_keeps_rows_and_leaves_the_finding_to_the_whole(tmp_path):
    model = segmenter(Linear((3.0, 0.0), bias=3.0))
    settings = Settings(method=Gradient(), lesions="largest:1")
    cases = [case(n, subject=f"{n:02d}") for n in range(2)]
    for index in (1, 2):
        runner = CohortRunner(shard=Shard(index, 2))
        told = run_experiment(
            "modality", model, cases, tmp_path, settings=settings, options=SMALL["modality"], runner=runner
        )
        assert f"share {index}/2" in told.text
    folder = tmp_path / "experiments" / "modality"
    assert not (folder / "finding.md").exists()
    said = []
    run_experiment(
        "modality",
        model,
        cases,
        tmp_path,
        settings=settings,
        options=SMALL["modality"],
        runner=CohortRunner(announce_fn=said.append),
    )
    assert said == ["2 of 2 scans are finished already and are kept."]
    assert (folder / "finding.md").is_file()
