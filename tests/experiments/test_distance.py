import numpy as np
import pytest
from known import Linear, cohort, scan_of

from lesionwise.attribution import SmoothGrad
from lesionwise.experiments.distance import distance_finding, distance_rows, sign_change_mm


def test_a_centre_surround_network_is_positive_inside_and_negative_around():
    rows = distance_rows(scan_of(Linear((3.0, 0.0), surround=0.8, bias=0.5)))
    flair = rows[rows["channel"] == "FLAIR"]
    assert (flair.loc[flair["to_mm"] <= 0, "mean"] > 0).all()
    assert (flair.loc[(flair["from_mm"] >= 1) & (flair["to_mm"] <= 3), "mean"] < 0).all()
    beyond = flair[flair["from_mm"] >= 4 * np.sqrt(3)]
    assert (beyond["mean"] == 0).all()  # farther than the kernel reaches
    assert (rows.loc[rows["channel"] == "T1w", "mean"] == 0).all()


def test_a_network_without_a_surround_is_not_reported_as_negative_around():
    """The published finding can fail here: a smoothing network is positive on both sides."""
    finding = distance_finding(distance_rows(scan_of(Linear((3.0, 0.0), width=7))), np.random.default_rng(0))
    assert (
        "TP, FLAIR: positive inside, positive on average within 5 mm outside; the sign does not change" in finding.text
    )


def test_the_mean_of_a_shell_counts_every_voxel_once():
    scan = scan_of(Linear((3.0, 0.0), width=5))
    rows = distance_rows(scan, edges_mm=(-50.0, 0.0, 50.0))
    for instance in scan.instances:
        mine = rows[(rows["lesion"] == instance.label) & (rows["channel"] == "FLAIR")]
        data = scan.maps[instance.label].on_grid(scan.case.image.shape)[0]
        inside = instance.mask(scan.case.image.shape)
        outside = scan.case.head & ~scan.lesions
        assert mine["mean"].iloc[0] == pytest.approx(data[inside].mean(), rel=1e-5)
        assert mine["mean"].iloc[1] == pytest.approx(data[outside].mean(), rel=1e-4)


def test_where_the_sign_changes():
    assert sign_change_mm(np.array([-1.0, 0, 1, 2]), np.array([3.0, 1, -1, -2])) == 0.5
    assert np.isnan(sign_change_mm(np.array([0.0, 1]), np.array([-1.0, 1])))


@pytest.mark.slow
def test_the_finding_says_how_the_map_was_reduced_and_gives_intervals():
    method = SmoothGrad(n_samples=2, reduce="max", max_voxels=2)
    rows = cohort(
        Linear((3.0, 0.0), surround=0.8, bias=0.5),
        distance_rows,
        patients=6,
        method=method,
        settings={"lesions": "largest:1"},
    )
    finding = distance_finding(rows, np.random.default_rng(0))
    assert "reduced by max" in finding.text
    assert "max" in finding.charts[0].caption
    assert finding.tables["distance"]["sign_change_low"].notna().any()
