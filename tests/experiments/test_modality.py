import numpy as np
import pandas as pd
import pytest
from known import Linear, cohort, scan_of

from lesionwise.experiments.modality import modality_finding, modality_rows


@pytest.mark.parametrize(("weights", "channel"), [((3.0, 0.0), "FLAIR"), ((0.0, -4.0), "T1w")])
def test_a_network_that_reads_one_channel_is_caught_whichever_it_is(weights, channel):
    """The experiment must be able to say T1w: the claim that FLAIR dominates is not built in."""
    rows = modality_rows(scan_of(Linear(weights, bias=1.5, width=3)), ig_steps=4)
    used, unused = rows[rows["channel"] == channel], rows[rows["channel"] != channel]
    assert used["share"].to_numpy() == pytest.approx(1)
    assert used["shapley_share"].to_numpy() == pytest.approx(1)
    assert used["ig_share"].to_numpy() == pytest.approx(1)
    for column in ("share", "mass", "shapley", "loss", "ig", "blank"):
        assert unused[column].to_numpy() == pytest.approx(0, abs=1e-5), column


def test_shapley_values_add_up_and_a_linear_network_is_split_by_weight_times_contrast():
    rows = modality_rows(scan_of(Linear((1.0, -1.0), bias=2.2)), ig_steps=4)
    for _, lesion in rows.groupby("lesion"):
        assert lesion["shapley"].sum() == pytest.approx(lesion["evidence"].iloc[0], rel=1e-4)
        assert lesion["loss"].to_numpy() == pytest.approx(lesion["shapley"].to_numpy(), abs=1e-4)  # no interaction
        flair, t1 = (lesion.loc[lesion["channel"] == name, "shapley"].iloc[0] for name in ("FLAIR", "T1w"))
        assert flair / t1 == pytest.approx(2, abs=0.3)  # contrasts are +2 and -1
        assert lesion["ig"].sum() == pytest.approx(lesion["evidence"].iloc[0], abs=0.5)
        assert lesion["completeness_error"].max() < 1e-3


def test_no_share_where_channels_disagree_in_sign():
    rows = modality_rows(scan_of(Linear((2.0, 0.5), bias=1.0)), ig_steps=0)
    assert rows["shapley_share"].isna().all()
    assert "ig" not in rows
    assert "disagreed in sign" in modality_finding(rows, np.random.default_rng(0)).text


def test_the_finding_names_the_channel_with_an_interval_over_patients():
    rows = cohort(Linear((0.2, -4.0), bias=1.5), modality_rows, ig_steps=0)
    finding = modality_finding(rows, np.random.default_rng(0))
    assert "7 patients" in finding.text
    assert "TP: T1w holds 0.9" in finding.text
    table = finding.tables["modality"]
    chosen = table[(table["channel"] == "T1w") & (table["measure"] == "share")]
    assert chosen["low"].notna().all()


def test_without_lesions_it_says_so():
    assert "No lesion" in modality_finding(pd.DataFrame(), np.random.default_rng(0)).text
