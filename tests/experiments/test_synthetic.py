import numpy as np
import pytest
from known import Linear, cohort, scan_of

from lesionwise.experiments.synthetic import synthetic_finding, synthetic_rows, typical_contrast

FLAIR_ONLY = Linear((3.0, 0.0), bias=3.0)
T1_ONLY = Linear((0.0, -3.0), bias=7.0)


def rows_of(network, *, contrast=(2.0, -1.0), **options):
    return synthetic_rows(
        scan_of(network, contrast=contrast), doses=(0.25, 1.0), radii_mm=(1.5, 2.5), places=2, moved=2, **options
    )


def test_the_typical_contrast_is_that_of_the_lesions():
    scan = scan_of(FLAIR_ONLY)
    scale = scan.placement.scale.numpy()
    assert typical_contrast(scan) == pytest.approx(np.array([2.0, -1.0]) / scale, rel=0.1)


@pytest.mark.parametrize(
    ("network", "seen", "unseen"), [(FLAIR_ONLY, "FLAIR only", "T1w only"), (T1_ONLY, "T1w only", "FLAIR only")]
)
def test_a_lesion_shown_in_the_channel_that_is_not_read_is_not_found(network, seen, unseen):
    rows = rows_of(network, contrast=(2.0, -3.0))
    inserted = rows[(rows["kind"] == "inserted") & (rows["dose"] == 1.0)]
    found = inserted.groupby("shown")["detected"].mean()
    assert found[seen] == 1.0
    assert found["both"] == 1.0
    assert found[unseen] == 0.0


def test_detection_follows_the_dose():
    inserted = rows_of(FLAIR_ONLY)
    inserted = inserted[(inserted["kind"] == "inserted") & (inserted["shown"] == "FLAIR only")]
    by_dose = inserted.groupby("dose")["detected"].mean()
    assert by_dose[0.25] == 0.0  # 0.5 against a threshold of 1.0
    assert by_dose[1.0] == 1.0


def test_removed_lesions_are_gone_and_moved_ones_are_found_where_the_tissue_allows():
    rows = rows_of(FLAIR_ONLY)
    removed = rows[rows["kind"] == "removed"]
    assert (removed["before"] > 0.8).all()
    assert not removed["detected"].any()
    moved = rows[rows["kind"] == "moved"].set_index("to")
    assert set(moved.index) >= {"white matter", "grey matter"}
    assert moved.loc["white matter", "detected"].all()
    assert moved.loc["white matter", "fit"].min() > 0.9


def test_a_network_that_reads_t1_loses_lesions_in_fluid():
    """Fluid is dark on T1w (-2): a lesion that is 1 darker than white matter is added there and is found; in grey matter
    (-1) it is found too; for FLAIR, fluid (-1) hides it (2 - 1 = 1, the threshold)."""
    rows = synthetic_rows(scan_of(Linear((3.0, 0.0), bias=5.0)), doses=(1.0,), radii_mm=(1.5,), places=1, moved=2)
    moved = rows[rows["kind"] == "moved"].groupby("to")["probability_mean"].mean()
    assert moved["white matter"] > 0.6
    assert moved["fluid"] < moved["white matter"] - 0.1


@pytest.mark.slow
def test_the_finding_names_the_channel():
    rows = cohort(FLAIR_ONLY, synthetic_rows, doses=(1.0,), radii_mm=(1.5,), places=1, moved=1)
    finding = synthetic_finding(rows, np.random.default_rng(0))
    assert "7 patients" in finding.text  # all seven of them: 0.59 is .025 ** (1 / 7)
    assert "1 [0.59, 1] of those shown in FLAIR only, 0 [0, 0.41] of those shown in T1w only" in finding.text
    assert {chart.name for chart in finding.charts} == {"synthetic_dose", "synthetic_moved"}


def test_an_insertion_without_a_place_is_reported():
    rows = synthetic_rows(scan_of(FLAIR_ONLY), doses=(1.0,), radii_mm=(12.0,), places=2, moved=0)
    assert (rows["kind"] == "not placed").sum() == 2
    assert "2 insertions found no place" in synthetic_finding(rows, np.random.default_rng(0)).text
