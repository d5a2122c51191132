"""Statistics with the patient as the unit: intervals, effect sizes, tests, models. No torch."""

from lesionwise.stats.bootstrap import (
    MIN_PATIENTS,
    TOO_FEW,
    Interval,
    cluster_bootstrap,
    mean_interval,
    mean_over_patients,
    profile_over_patients,
)
from lesionwise.stats.comparisons import (
    TestResult,
    holm,
    kruskal_wallis,
    mann_whitney_pairs,
    paired_difference,
    patient_pairs,
    sign_flip_test,
    within_patient_test,
)
from lesionwise.stats.effects import auc, auc_interval, icc_agreement, icc_consistency, weighted_auc
from lesionwise.stats.mixed import MixedModel, random_intercept_model
from lesionwise.stats.residual import LeftOver, what_is_left

__all__ = [
    "MIN_PATIENTS",
    "TOO_FEW",
    "Interval",
    "LeftOver",
    "MixedModel",
    "TestResult",
    "auc",
    "auc_interval",
    "cluster_bootstrap",
    "holm",
    "icc_agreement",
    "icc_consistency",
    "kruskal_wallis",
    "mann_whitney_pairs",
    "mean_interval",
    "mean_over_patients",
    "paired_difference",
    "patient_pairs",
    "profile_over_patients",
    "random_intercept_model",
    "sign_flip_test",
    "weighted_auc",
    "what_is_left",
    "within_patient_test",
]
