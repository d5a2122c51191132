"""The list of likely misses: counted by hand; random is the mean over all orders."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from lesionwise.triage.misses import compare_orders, found_first

NAN = float("nan")


def table(missed, probability, volume, scan="sub-1"):
    rows = {"scan": scan, "missed": missed, "probability_max": probability, "volume_mm3": volume}
    return pd.DataFrame(rows)


COUNTS = pd.DataFrame({"subject": ["1", "2"], "scan": ["sub-1", "sub-2"], "TP": 3, "FP": 1, "FN": [4, 2]})


def test_counted_by_hand():
    candidates = table([5.0, NAN, 5.0, 7.0], [0.4, 0.3, 0.2, 0.1], [1, 2, 3, 4])
    found = found_first(candidates, COUNTS, first=2).set_index("scan")
    row = found.loc["sub-1"]
    assert (row["missed"], row["reachable"], row["candidates"]) == (4, 2, 4)
    assert row["probability_max"] == 1  # lesion 5; the next candidate lies on none
    assert row["volume_mm3"] == 2  # lesions 7 and 5
    orders = [set(p[:2]) - {NAN} for p in permutations([5.0, None, 5.0, 7.0])]
    assert row["random"] == pytest.approx(np.mean([len(o - {None}) for o in orders]))
    assert found.loc["sub-2", ["reachable", "candidates", "probability_max", "random"]].tolist() == [0, 0, 0, 0]
    assert "model" not in found


def test_a_lesion_found_twice_counts_once_and_few_candidates_are_all_found():
    found = found_first(table([5.0, 5.0], [0.2, 0.1], [1, 1]), COUNTS.head(1), first=10)
    assert found[["probability_max", "volume_mm3", "random"]].to_numpy().tolist() == [[1, 1, 1]]


def test_differences_are_paired_by_patient():
    scans = [f"sub-{n}" for n in range(8)]
    found = pd.DataFrame(
        {"subject": [s[4:] for s in scans], "scan": scans, "missed": 5, "reachable": 3, "candidates": 20}
    )
    found = found.assign(probability_max=np.arange(8), volume_mm3=0, random=np.arange(8) - 0.5)
    facts = compare_orders(found, n_resamples=200)
    assert facts["probability_max - random"] == "0.5 [0.5, 0.5]"
    assert facts["total_probability_max"] == 28
    few = compare_orders(found.head(3), n_resamples=200)
    assert "[" not in few["probability_max"]
