"""Triage models made by hand, whose verdicts are known beforehand."""

import numpy as np

from lesionwise.triage.families import catalogue
from lesionwise.triage.model import TriageModel
from lesionwise.triage.scorer import Calibration, FeaturePreparation, LinearScorer

CHANNELS = ("FLAIR", "T1w")


def by_volume(middle, *, families=("saliency",)):
    """A model by hand: false where the volume is below `middle` ln mm3, and a little by the FLAIR map."""
    names = ["volume_log", "mean_in_FLAIR"] if "saliency" in families else ["volume_log"]
    known = catalogue(CHANNELS)
    n = len(names)
    preparation = FeaturePreparation(np.zeros(n), np.full(n, -1e9), np.full(n, 1e9), np.zeros(n), np.ones(n))
    coefficients = np.array([-10.0, -1e-6])[:n]
    scorer = LinearScorer(preparation, coefficients, 10.0 * middle)
    typical = np.array([6.0, 10.0])[:n]
    features = tuple(known[name] for name in names)
    return TriageModel(features, scorer, Calibration(), 0.5, typical, typical - 4, {"channels": list(CHANNELS)})
