"""What `lesionwise why` found, as features: where a decision never flips the end of the range counts; a table must be there."""

from dataclasses import replace

import numpy as np
import pandas as pd
from triage_scans import CHANNELS, ball_scan

from lesionwise.triage.cohort import Extras, measure_scan
from lesionwise.triage.families import catalogue, of_families
from lesionwise.triage.margins import margin_features

WHY = pd.DataFrame(
    {
        "lesion": [1],
        "margin_all": [0.6],
        "margin_all_end": [0.0],
        "margin_FLAIR": [0.7],
        "margin_FLAIR_end": [0.0],
        "margin_T1w": [np.nan],
        "margin_T1w_end": [0.0],
        "margin_size": [1.5],
        "margin_size_end": [3.0],
        "without_rim_change": [-0.5],
        "without_neighbours_change": [None],
    }
)


def test_margins_are_those_of_the_why_table():
    found = margin_features(WHY, [1, 2], channels=CHANNELS)
    one = found[1]
    assert (one["margin_all"], one["margin_FLAIR"], one["margin_size"]) == (0.6, 0.7, 1.5)
    assert one["margin_T1w"] == 0.0  # T1w alone never turns the decision, down to healthy tissue
    assert one["without_rim_change"] == -0.5
    assert np.isnan(one["without_neighbours_change"])
    assert np.isnan(list(found[2].values())).all()
    assert set(one) == set(of_families(catalogue(CHANNELS), ["margins"]))


def test_they_stand_beside_the_other_features_of_a_scan():
    scan, _ = ball_scan()
    measured = measure_scan(replace(scan, why=WHY), extras=Extras(margins=True), labels=[1])
    assert measured["margin_FLAIR"].tolist() == [0.7]
    assert measured["volume_mm3"].notna().all()
