import numpy as np
import pandas as pd
import pytest
from known import Linear, Normed, case, explained, scan_of, segmenter

from lesionwise.asking.scan import Scan
from lesionwise.experiments.context import context_finding, context_rows, enough_mm


def test_a_network_that_reads_the_voxel_alone_needs_no_context():
    rows = context_rows(scan_of(Linear((3.0, 0.0))), distances_mm=(0.0, 1.0, 5.0), fills=("zero",))
    assert (enough_mm(rows)["enough_mm"] == 0).all()
    assert not rows["frozen"].any()  # no instance normalisation, so nothing to freeze


def test_the_context_needed_is_the_surround_of_the_network():
    """Healthy white matter is subtracted over a box of 9 voxels: the score depends on 4-7 mm and no farther."""
    network = Linear((3.0, 0.0), surround=0.8, bias=0.5)
    rows = context_rows(scan_of(network), distances_mm=tuple(float(d) for d in range(12)), fills=("tissue",))
    far = rows[rows["distance_mm"] >= 4 * np.sqrt(3) + 0.1]
    assert far["probability_mean"].to_numpy() == pytest.approx(far["full_probability"].to_numpy(), abs=1e-5)
    near = rows[rows["distance_mm"] == 1]
    assert np.abs(near["probability_mean"] - near["full_probability"]).max() > 1e-3


def test_zero_fill_shifts_instance_normalisation_and_freezing_undoes_it():
    rows = context_rows(scan_of(Normed()), distances_mm=(0.0, 2.0), fills=("zero",))
    gap = (rows["target_mean"] - rows["full_target"]).abs()
    assert gap[~rows["frozen"]].max() > 0.05
    assert gap[rows["frozen"]].max() < 1e-4


def test_dilation_steps_reach_farther_than_millimetres():
    scan = scan_of(Linear((3.0, 0.0), surround=0.8, bias=0.5))
    options = {"distances_mm": (2.0,), "fills": ("zero",)}
    steps, mm = (context_rows(scan, step=step, **options)["probability_mean"] for step in ("dilation", "euclidean"))
    assert not np.allclose(steps, mm)


@pytest.mark.slow
def test_the_finding_states_the_distance_and_the_published_curve():
    scans = []
    for n in range(7):
        model = segmenter(Linear((3.0, 0.0)))
        scan = Scan(model, explained(model, case(n, subject=f"{n:02d}")))
        scans.append(context_rows(scan, distances_mm=(0.0, 2.0, 4.0), fills=("zero",)))
    finding = context_finding(pd.concat(scans), np.random.default_rng(0))
    assert "7 patients" in finding.text
    assert "from 0 [0, 0] mm" in finding.text
    labels = [mark.label for mark in finding.charts[0].panels[0].marks]
    assert labels == ["zero", "published U-Net (digitised)"]


def test_few_patients_give_no_interval():
    rows = context_rows(scan_of(Linear((3.0, 0.0))), distances_mm=(0.0, 2.0), fills=("zero",))
    finding = context_finding(rows, np.random.default_rng(0))
    assert "from 0 mm" in finding.text
    assert "1 patient," in finding.text


def test_a_lesion_costs_far_less_than_a_whole_volume_prediction_per_distance():
    """Of 125 windows only those that meet the lesion are computed, and of those only the ones that changed."""
    network = Linear((3.0, 0.0), width=3, bias=3.0)
    scan = scan_of(network, window=(8, 8, 8))
    assert len(scan.grid.boxes) == 125
    computed = []
    handle = network.register_forward_hook(lambda module, inputs, output: computed.append(len(inputs[0])))
    distances = tuple(float(d) for d in range(12))
    one = scan.chosen[0].label
    rows = context_rows(Scan(scan.model, scan.explained, wanted=(one,)), distances_mm=distances, fills=("zero",))
    handle.remove()
    assert len(rows) == len(distances)
    assert sum(computed) < len(distances) * 125 / 5
    last = rows[rows["distance_mm"] == 11.0].iloc[0]
    assert last["probability_mean"] == pytest.approx(last["full_probability"])
