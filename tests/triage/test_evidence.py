"""Evidence: metrics equal scikit-learn's and hand-computed ones, patients are drawn whole, differences are paired."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lesionwise.stats import weighted_auc
from lesionwise.triage.evaluation import scan_table
from lesionwise.triage.evidence import (
    METRICS,
    Judged,
    average_precision,
    evaluate,
    fit_sets,
    permutation_importance,
)
from lesionwise.triage.model import fit_model

CHANNELS = ("FLAIR", "T1w")


def test_auc_and_average_precision_pair_by_pair():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 12, 200).astype(float)  # with ties
    false, weight = rng.integers(0, 2, 200), rng.uniform(0.5, 3, 200)
    w_true, w_false = weight * (false == 0), weight * (false == 1)
    pairs = w_false[:, None] * w_true[None]
    wins = (score[:, None] > score[None]) + 0.5 * (score[:, None] == score[None])
    assert weighted_auc(score, w_true, w_false) == pytest.approx((pairs * wins).sum() / pairs.sum())
    assert weighted_auc(score, w_true, w_false) == pytest.approx(roc_auc_score(false, score, sample_weight=weight))
    called = [score >= s for s in np.unique(score)[::-1]]
    recall = np.array([0.0, *(w_false[c].sum() / w_false.sum() for c in called)])
    precision = np.array([w_false[c].sum() / weight[c].sum() for c in called])
    assert average_precision(score, w_true, w_false) == pytest.approx((np.diff(recall) * precision).sum())
    assert np.isnan(weighted_auc(score, np.zeros(200), w_false))
    assert np.isnan(average_precision(score, w_true, np.zeros(200)))


def test_metrics_by_hand():
    """4 true (one called), 4 false (three called) of which each stands for two, 2 missed."""
    judged = Judged(
        p=np.array([0.1, 0.2, 0.3, 0.9, 0.2, 0.8, 0.9, 0.95, 0.0]),
        false=np.array([0, 0, 0, 0, 1, 1, 1, 1, 0]),
        called=np.array([False] * 3 + [True] + [False] + [True] * 3 + [False]),
        called_at_loss=np.array([False] * 7 + [True] + [False]),
        weight=np.array([1.0] * 4 + [2.0] * 4 + [0.0]),
        missed=np.array([0.0] * 8 + [2.0]),
        patients=np.array(["a"] * 9),
    )
    found = dict(zip(METRICS, judged.metrics(np.arange(9)), strict=True))
    assert found["false_removed"] == 0.75
    assert found["true_lost"] == 0.25
    assert found["true_lost_per_patient"] == 0.25
    assert found["patients_losing_more"] == 1
    assert found["false_removed_at_loss"] == 0.25
    assert found["ppv_before"] == pytest.approx(4 / 12)
    assert found["ppv_after"] == pytest.approx(3 / 5)
    assert found["recall_before"] == pytest.approx(4 / 6)
    assert found["recall_after"] == pytest.approx(3 / 6)
    assert found["f1_before"] == pytest.approx(8 / (8 + 8 + 2))
    assert found["f1_after"] == pytest.approx(6 / (6 + 2 + 3))


def test_what_a_patient_loses_counts_every_patient_alike():
    """One patient loses none of eight true lesions, one half of two; drawn twice, the second counts twice."""
    judged = Judged(
        p=np.zeros(10),
        false=np.zeros(10, dtype=np.int64),
        called=np.array([False] * 9 + [True]),
        called_at_loss=np.zeros(10, dtype=bool),
        weight=np.ones(10),
        missed=np.zeros(10),
        patients=np.array(["a"] * 8 + ["b"] * 2),
    )
    found = dict(zip(METRICS, judged.metrics(np.arange(10)), strict=True))
    assert found["true_lost"] == pytest.approx(0.1)
    assert found["true_lost_per_patient"] == pytest.approx(0.25)
    assert found["patients_losing_more"] == pytest.approx(0.5)
    twice = dict(zip(METRICS, judged.metrics(np.array([*range(10), 8, 9])), strict=True))
    assert twice["true_lost_per_patient"] == pytest.approx(1 / 3)
    assert twice["patients_losing_more"] == pytest.approx(2 / 3)


def test_evidence_of_what_helps_and_what_does_not(lesions, held_out, counts):
    models = fit_sets(lesions, channels=CHANNELS)
    assert "context" in models
    assert "radiomics (published)" not in models
    found = evaluate(models, held_out, counts, n_resamples=200)
    auc = {name: of["auc"] for name, of in found.metrics.items()}
    assert auc["baselines + saliency"].low > 0.8
    gain = found.differences["baselines + saliency"]["auc against baselines"]
    assert gain.low > 0
    nothing = found.differences["probability"]["auc against baselines"]
    assert not nothing.excludes(0) or abs(nothing.estimate) < 0.03
    assert found.facts["patients"] == 20
    assert found.facts["missed"] == 60
    assert "baselines + saliency" in found.markdown()
    for of in found.metrics.values():
        assert of["recall_after"].estimate <= of["recall_before"].estimate
        assert of["true_lost"].estimate < 0.15


def test_equal_models_differ_by_exactly_nothing(lesions, held_out, counts):
    model, _ = fit_model(lesions, channels=CHANNELS)
    found = evaluate({"baselines": model, "same": model}, held_out, counts, n_resamples=50)
    difference = found.differences["same"]["auc against baselines"]
    assert (difference.estimate, difference.low, difference.high) == (0, 0, 0)


def test_what_is_not_judged_is_not_called(lesions, held_out, counts):
    model, _ = fit_model(lesions, channels=CHANNELS)
    large = held_out.assign(volume_mm3=np.where(held_out["outcome"] == "TP", 1e5, 30.0))
    metrics = evaluate({"m": model}, large, counts, n_resamples=50).metrics["m"]
    assert metrics["true_lost"].estimate == 0
    assert metrics["false_removed"].estimate > 0
    assert metrics["false_removed_at_loss"].estimate == 1  # nothing can be lost at any threshold
    scans = scan_table(model, large, counts)
    assert scans["true_lost"].sum() == 0
    assert scans["not_judged"].sum() == (held_out["outcome"] == "TP").sum()
    assert scans["largest_called_mm3"].max() == 30
    whole = evaluate({"m": model}, held_out, counts, n_resamples=50).metrics["m"]
    by_scan = scan_table(model, held_out, counts)
    assert by_scan["false_removed"].sum() / by_scan["false"].sum() == pytest.approx(whole["false_removed"].estimate)
    one = by_scan[by_scan["scan"] == by_scan["scan"].iloc[0]].iloc[0]
    kept, left = one["true"] - one["true_lost"], one["false"] - one["false_removed"]
    assert one["f1_after"] == pytest.approx(2 * kept / (2 * kept + left + one["missed"] + one["true_lost"]))


def test_few_patients_give_effect_sizes_only(lesions, held_out, counts):
    few = held_out[held_out["subject"].isin(["00", "01", "02"])]
    some = counts[counts["subject"].isin(["00", "01", "02"])]
    model, _ = fit_model(lesions, channels=CHANNELS)
    auc = evaluate({"all": model}, few, some, n_resamples=50).metrics["all"]["auc"]
    assert np.isfinite(auc.estimate)
    assert np.isnan(auc.low)


def test_intervals_are_over_patients_not_lesions(lesions, held_out, counts):
    """Every lesion written down five times is not more evidence."""
    model, _ = fit_model(lesions, channels=CHANNELS)
    once = evaluate({"m": model}, held_out, counts, n_resamples=300).metrics["m"]["auc"]
    copies = pd.concat([held_out] * 5, ignore_index=True)
    five = evaluate({"m": model}, copies, counts, n_resamples=300).metrics["m"]["auc"]
    assert five.high - five.low == pytest.approx(once.high - once.low, rel=1e-6)


def test_shuffling_what_counts_costs_most(lesions, held_out):
    model, _ = fit_model(lesions, channels=CHANNELS)
    importance = permutation_importance(model, held_out)
    assert set(list(importance)[:2]) == {"probability", "push of FLAIR inside"}
    assert importance["probability"] > 0.02
