"""Small cohorts of made-up features with a known truth."""

import numpy as np
import pandas as pd
import pytest

from lesionwise.triage.families import catalogue

CHANNELS = ("FLAIR", "T1w")


def made_up(*, patients=20, lesions=14, signal=1.5, seed=0):
    """A feature table in which probability_max and push_in_FLAIR are lower in false lesions, by `signal` SD each.

    Every patient has an offset of its own, as scanners give them.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        offset = rng.normal(scale=0.5, size=len(catalogue(CHANNELS)))
        for lesion in range(lesions):
            false = rng.uniform() < 0.4
            values = rng.normal(size=len(offset)) + offset
            row = dict(zip(catalogue(CHANNELS), values, strict=True))
            row["probability_max"] -= signal * false
            row["push_in_FLAIR"] -= signal * false
            scan = {"subject": f"{patient:02d}", "scan": f"sub-{patient:02d}", "lesion": lesion + 1}
            rows.append({**scan, "outcome": "FP" if false else "TP", "volume_mm3": 30.0, "weight": 1.0, **row})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def lesions():
    return made_up()


@pytest.fixture(scope="session")
def held_out():
    return made_up(seed=1)


@pytest.fixture(scope="session")
def counts(held_out):
    """Lesions per scan by outcome, with three missed ones each."""
    rows = []
    for (subject, scan), part in held_out.groupby(["subject", "scan"]):
        true = int((part["outcome"] == "TP").sum())
        rows.append({"subject": subject, "scan": scan, "TP": true, "FP": len(part) - true, "FN": 3})
    return pd.DataFrame(rows)
