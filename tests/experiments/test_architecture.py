import numpy as np
import pytest
from known import Linear, cohort, scan_of

from lesionwise.experiments.architecture import architecture_finding, architecture_rows


def rows_of(width, **options):
    network = Linear((3.0, 0.0), width=width, bias=1.0)
    return architecture_rows(scan_of(network, **options), windows_vox=(16, 32), context_mm=(0, 1, 2, 3, 4, 6, 8, 12))


def test_a_network_of_single_voxels_needs_no_context_and_any_window():
    rows = rows_of(1)
    assert rows["context_mm"].tolist() == [0, 0]
    assert rows["erf_mm"].tolist() == [0, 0]
    assert rows["ndsc"].to_numpy() == pytest.approx(rows["ndsc"].iloc[0])
    assert rows["trained_vox"].tolist() == [32, 32]


def test_a_wider_network_is_said_to_look_farther():
    narrow, wide = rows_of(3).iloc[0], rows_of(9).iloc[0]
    assert 0 < narrow["erf_mm"] < wide["erf_mm"] <= 4 * np.sqrt(3)


def test_the_finding_sets_quality_beside_context_and_reach_with_a_line_for_the_network():
    network = Linear((3.0, 0.0), bias=3.0)
    rows = cohort(network, lambda scan: architecture_rows(scan, windows_vox=(16, 32), context_mm=(0.0, 5.0)))
    finding = architecture_finding(rows, np.random.default_rng(0))
    line = finding.tables["architecture_network"].iloc[0]
    assert (line["trained_vox"], line["context_mm"], line["patients"]) == (32, 0, 7)
    assert line["ndsc_own_window"] == pytest.approx(rows[rows["window_vox"] == 32]["ndsc"].mean())
    assert "from 0 [0, 0] mm on" in finding.text
    assert [label for _, label in finding.charts[0].panels[0].x_marks] == ["own window", "2 x ERF", "2 x context"]


def test_a_window_that_the_network_cannot_take_is_named_not_fatal():
    class Picky(Linear):
        def forward(self, x):
            if x.shape[-1] < 32:
                raise RuntimeError("too small")
            return super().forward(x)

    rows = architecture_rows(scan_of(Picky((3.0, 0.0), bias=3.0)), windows_vox=(16, 32), context_mm=(0.0,))
    assert "cannot take" in rows["note"].iloc[0]
    assert rows["ndsc"].notna().tolist() == [False, True]
