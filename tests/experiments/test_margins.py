import numpy as np
import pandas as pd
from known import Linear, found_scan_of

from lesionwise.experiments.margins import margin_finding, margin_rows
from lesionwise.experiments.registry import EXPERIMENTS


def rows_of(patients=3):
    """Found lesions with a margin of 0.5 on FLAIR and none on T1w, and a missed one per patient at 1.5."""
    rows = []
    for n in range(patients):
        scan = {"subject": f"{n:02d}", "scan": f"sub-{n:02d}", "model": "known", "why_flips": 2, "why_verified": 2}
        found = {"margin_all": 0.5, "margin_FLAIR": 0.5, "margin_T1w": np.nan, "margin_size": 1.0}
        ends = {f"{name}_end": 0.0 for name in found}
        rows.append({**scan, "lesion": 1, "outcome": "TP", **found, **ends})
        missed = {"margin_all": 1.5, "margin_FLAIR": 1.5, "margin_T1w": np.nan, "margin_size": np.nan}
        rows.append({**scan, "lesion": 2, "outcome": "FN", **missed, **ends})
    return pd.DataFrame(rows)


def test_the_finding_tells_margins_by_outcome_and_what_never_flips():
    found = margin_finding(rows_of(), np.random.default_rng(0))
    assert "contrast on FLAIR alone, true lesions are lost below 0.5" in found.text
    assert "missed ones would be found from 1.5" in found.text
    assert "With the contrast on T1w alone no TP lesion of 3 is decided otherwise." in found.text
    assert "12 of 12 flips hold" in found.text
    table = found.tables["margins"].set_index(["dial", "outcome"])
    assert table.loc[("T1w", "FN"), "never"] == 3
    assert table.loc[("FLAIR", "FN"), "margin"] == 1.5
    assert len(found.charts[0].panels) == 2  # nothing to draw for T1w


def test_rows_are_those_of_the_why_table():
    scan = found_scan_of(Linear((2.0, 0.0)))
    rows = margin_rows(scan)
    assert list(rows["lesion"]) == [one.label for one in scan.instances]
    assert (rows["why_flips"] == rows["why_verified"]).all()
    assert "margins" in EXPERIMENTS


def test_without_lesions_there_is_nothing_to_ask():
    assert "No lesion" in margin_finding(pd.DataFrame(), np.random.default_rng(0)).text
