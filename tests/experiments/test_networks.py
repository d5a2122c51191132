import json

import pandas as pd
import pytest
from known import Linear, case, segmenter

from lesionwise.attribution import Gradient
from lesionwise.errors import InputError
from lesionwise.experiments.networks import folder_of, run_networks
from lesionwise.units import Settings

NETWORKS = {"reads FLAIR": Linear((3.0, 0.0), bias=3.0), "reads T1w": Linear((0.0, -4.0), bias=1.5)}


def run(name, out, networks=NETWORKS, **options):
    models = {key: segmenter(network, name="known") for key, network in networks.items()}
    settings = {key: Settings(method=Gradient()) for key in models}
    cases = [case(n, subject=f"{n:02d}") for n in range(2)]
    return run_networks(name, models, cases, out, settings=settings, options=options)


def test_each_network_has_its_own_answer_and_its_own_folder(tmp_path):
    finding = run("modality", tmp_path, ig_steps=0)
    table = finding.tables["modality"]
    share = table[(table["measure"] == "share") & (table["outcome"] == "TP")].set_index(["model", "channel"])[
        "estimate"
    ]
    assert share["reads FLAIR", "FLAIR"] == pytest.approx(1)
    assert share["reads T1w", "T1w"] == pytest.approx(1)
    assert "reads FLAIR: 2 patients" in finding.text
    assert "reads T1w: 2 patients" in finding.text
    assert finding.text.count("Published:") == 1
    joined = pd.read_csv(tmp_path / "experiments" / "modality" / "modality_rows.tsv", sep="\t")
    for name, folder in zip(NETWORKS, ("reads-FLAIR", "reads-T1w"), strict=True):
        own = pd.read_csv(tmp_path / folder / "experiments" / "modality" / "modality_rows.tsv", sep="\t")
        assert len(own) == (joined["model"] == name).sum() > 0


def test_peaks_have_a_violin_per_network_and_channel(tmp_path):
    chart = run("peaks", tmp_path).charts[0]
    assert [panel.title for panel in chart.panels] == [
        f"{name}: {channel}" for name in NETWORKS for channel in ("FLAIR", "T1w")
    ]
    assert chart.grid == (2, 2)
    page = json.loads((tmp_path / "experiments" / "peaks" / "peaks.plotly.json").read_text())
    assert page["layout"]["meta"]["rows"] == 2
    assert not any("customdata" in trace for trace in page["data"])  # lesion 1 is not one lesion in all networks
    own = json.loads((tmp_path / "reads-T1w" / "experiments" / "peaks" / "peaks.plotly.json").read_text())
    assert all("customdata" in trace for trace in own["data"] if trace["type"] == "violin")


def test_one_folder_for_two_networks_is_refused(tmp_path):
    assert folder_of("a b") == folder_of("a/b")
    with pytest.raises(InputError, match="different names"):
        run("peaks", tmp_path, {"a b": NETWORKS["reads FLAIR"], "a/b": NETWORKS["reads T1w"]})
