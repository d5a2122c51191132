import numpy as np
import pandas as pd
from known import Linear, cohort, scan_of

from lesionwise.experiments.peaks import peaks_finding, peaks_rows


def synthetic(seed=0, *, patients=12, true_effect=0.0, size_effect=0.0):
    """Rows as `peaks_rows` makes them, with peaks that depend on outcome and size as told."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        level = rng.standard_normal()
        for lesion in range(20):
            outcome = ["TP", "FP", "FN", "TN"][lesion % 4]
            size = rng.standard_normal() + (outcome == "TP")
            peak = level + size_effect * size + true_effect * (outcome == "TP") + 0.5 * rng.standard_normal()
            rows.append(
                {
                    "subject": f"{patient:02d}", "session": None, "scan": f"sub-{patient:02d}", "model": "known",
                    "lesion": lesion, "outcome": outcome, "channel": "FLAIR", "reduce": "mean", "peak": peak,
                    "log_volume": size, "probability_mean": rng.random(), "probability_max": rng.random(),
                    "entropy": rng.random(),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_rows_hold_the_peak_of_the_map_and_the_entropy():
    scan = scan_of(Linear((3.0, 0.0), width=5))
    rows = peaks_rows(scan)
    assert len(rows) == 2 * len(scan.instances)
    for row in rows.itertuples():
        data = scan.maps[row.lesion].channel(row.channel)
        assert np.isclose(row.peak, data.max())
        p = scan.explained.prediction[scan.instances[row.lesion - 1].index].astype(float)
        p = np.clip(p, 1e-7, 1 - 1e-7)
        assert np.isclose(row.entropy, -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean())


def test_an_effect_of_outcome_is_found_and_is_left_over():
    finding = peaks_finding(synthetic(true_effect=2.0), np.random.default_rng(0))
    pairs = finding.tables["peaks_patients"].set_index(["first", "second"])
    assert pairs.loc[("TP", "FP"), "p_holm"] < 0.01
    assert pairs.loc[("FP", "FN"), "p_holm"] > 0.05
    assert finding.tables["peaks_left"]["low"].iloc[0] > 0
    mixed = finding.tables["peaks_mixed"]
    assert (mixed.loc[mixed["effect"] == "FP", "p"] < 1e-4).all()


def test_an_effect_that_is_only_size_leaves_nothing():
    """Peaks rank TP first here, but only because TP are larger: the experiment must say so."""
    finding = peaks_finding(synthetic(size_effect=1.5), np.random.default_rng(0))
    pairs = finding.tables["peaks_patients"].set_index(["first", "second"])
    assert pairs.loc[("TP", "FP"), "p_holm"] < 0.05
    left = finding.tables["peaks_left"].iloc[0]
    assert left["low"] < 0 < left["high"] or abs(left["difference"]) < 0.02
    mixed = finding.tables["peaks_mixed"].set_index(["adjusted", "effect"])
    assert mixed.loc[("outcome", "FP"), "p"] < 0.01
    assert mixed.loc[("outcome given size, probability, entropy", "FP"), "p"] > 0.01


def test_three_patients_give_effect_sizes_without_p():
    finding = peaks_finding(synthetic(patients=3, true_effect=2.0), np.random.default_rng(0))
    assert finding.tables["peaks_patients"]["p"].isna().all()
    assert finding.tables["peaks_patients"]["auc"].notna().all()
    assert finding.tables["peaks_pooled"][["p", "p_holm", "kruskal_wallis_p"]].isna().all(axis=None)
    assert finding.tables["peaks_pooled"]["kruskal_wallis_epsilon2"].notna().all()
    assert "p =" not in finding.text
    assert "AUC" in finding.text
    assert peaks_finding(synthetic(true_effect=2.0), np.random.default_rng(0)).text.count("p =") > 1


def test_real_rows_go_through():
    rows = cohort(Linear((3.0, 0.0), width=5), peaks_rows, patients=2)
    assert "2 patients" in peaks_finding(rows, np.random.default_rng(0)).text
    assert "cannot be compared" in peaks_finding(pd.DataFrame(), np.random.default_rng(0)).text
