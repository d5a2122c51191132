import numpy as np
import pytest
from known import Linear, case, explained, scan_of, segmenter

from lesionwise.asking.scan import Scan
from lesionwise.experiments.controls import controls_finding, controls_rows

NETWORK = Linear((3.0, 0.0), bias=3.0)


def test_every_region_asked_for_has_a_row_and_says_where_its_tissue_is_from():
    rows = controls_rows(scan_of(NETWORK, settings={"controls": 3}), margin_mm=2, depth_tolerance_mm=3)
    assert len(rows) == 3
    assert set(rows["tissue_source"]) == {"given"}
    placed = rows[rows["placed"]]
    assert len(placed)
    assert (placed["lesion_distance_mm"] > 2).all()
    assert (placed["depth_mm"] - placed["template_depth_mm"]).abs().max() <= 3
    assert placed["probability_max"].max() < 0.5  # healthy tissue, of which this network says nothing
    assert "given segmentation" in controls_finding(rows, np.random.default_rng(0)).text


def test_a_region_without_a_place_is_reported_and_not_forced():
    rows = controls_rows(scan_of(NETWORK, settings={"controls": 2}), margin_mm=40)
    assert rows["placed"].tolist() == [False, False]
    assert rows["note"].str.contains("No place in healthy white matter").all()
    finding = controls_finding(rows, np.random.default_rng(0))
    assert "0 of 2 control regions placed" in finding.text
    assert "not forced" in finding.text
    assert finding.tables["controls"]["placed"].tolist() == [0]


def test_without_a_segmentation_the_table_says_that_t1w_told_white_matter():
    whole = case(0)
    plain = type(whole)(whole.image, whole.head, whole.reference, whole.name, {})
    model = segmenter(NETWORK)
    rows = controls_rows(Scan(model, explained(model, plain, controls=1)), margin_mm=2, depth_tolerance_mm=3)
    assert rows["tissue_source"].tolist() == ["mixture"]
    assert "classes of T1w" in controls_finding(rows, np.random.default_rng(0)).text


@pytest.mark.parametrize("controls", [0])
def test_none_asked_for_is_said(controls):
    rows = controls_rows(scan_of(NETWORK, settings={"controls": controls}))
    assert not len(rows)
    assert "--controls" in controls_finding(rows, np.random.default_rng(0)).text
