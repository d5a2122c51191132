"""The table of a scan, its columns and its words."""

import numpy as np
import pandas as pd
import pytest
from known import Linear, found_scan_of

from lesionwise.io.derivative import ScanFiles, read_why
from lesionwise.report.why import why_words
from lesionwise.why.columns import described
from lesionwise.why.finished import WrittenAs, write_why
from lesionwise.why.lesions import Effort, why_scan
from lesionwise.why.margin import MOST_PASSES


@pytest.fixture(scope="module")
def scan():
    return found_scan_of(Linear((2.0, 0.0)))


@pytest.fixture(scope="module")
def table(scan):
    return why_scan(scan, effort=Effort(evaluations=16, stability=2), lesions=scan.instances[:1])


def test_every_column_is_described_and_every_flip_holds(scan, table):
    assert set(table.columns) <= set(described(scan.channels, unit="log-odds"))
    row = table.iloc[0]
    assert row["why_flips"] == row["why_verified"] >= 2
    assert np.isnan(row["margin_T1w"])
    assert 0 < row["margin_FLAIR"] < 1
    assert row["shapley_leading"] == "lesion FLAIR"
    values = [name for name in table if name.startswith("shapley_") and name.endswith(("_FLAIR", "_T1w"))]
    assert table[values].sum(axis=1).iloc[0] == pytest.approx(row["shapley_total"], abs=1e-6)


def test_the_cost_told_before_is_not_passed(scan, table):
    assert table["why_passes"].iloc[0] <= Effort(evaluations=16).passes(len(scan.channels))
    assert MOST_PASSES == 12


def test_the_table_is_written_whole_and_read_back(scan, table, tmp_path):
    files = ScanFiles(tmp_path, scan.case.name)
    assert read_why(files) is None
    write_why(files, table, WrittenAs(scan.channels, "log-odds", "smoothgradmean", "0" * 16, 0.5))
    back = read_why(files)
    assert list(back.columns) == list(table.columns)
    words = why_words(back, int(table["lesion"].iloc[0]), scan.channels)
    assert "% fainter on FLAIR alone" in words
    assert "on T1w alone would not change the decision" in words
    assert "the lesion itself on FLAIR" in words
    assert "Stable: the effect of FLAIR is" in words
    assert why_words(back, 99, scan.channels) == why_words(None, 1, scan.channels) == ""
    files.remove_why()
    assert read_why(files) is None


def test_words_of_a_missed_and_of_an_invented_lesion():
    told = {"lesion": [1, 2], "outcome": ["FN", "FP"], "why_found": [False, True], "margin_all": [1.5, 0.8],
            "margin_all_end": [3.0, 0.0], "margin_size": [np.nan, 0.7], "contrast_sd_FLAIR": [1.4, 1.0],
            "margin_FLAIR": [1.5, 0.8], "margin_FLAIR_end": [3.0, 0.0]}  # fmt: skip
    table = pd.DataFrame(told)
    missed, invented = (why_words(table, label, ("FLAIR",)) for label in (1, 2))
    assert "it would have been found if it were 1.5 times as strong" in missed
    assert "it would disappear if it were 20 % fainter" in invented
    assert "0.7 mm thinner" in invented
