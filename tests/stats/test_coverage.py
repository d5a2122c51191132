"""Do 95 % intervals hold the truth 95 times in a hundred, with few patients and clustered lesions?

Small here (binomial error .011); `python -m benchmarks.coverage` makes the table of docs/method.md with more cohorts.
"""

import numpy as np
import pytest
from benchmarks.coverage import auc_coverage, mean_coverage, pooled_coverage

PATIENTS = (6, 8, 12, 20)


@pytest.mark.parametrize("kind", ["normal", "clustered", "pooled", "auc"])
def test_intervals_cover_their_level(kind):
    rng = np.random.default_rng(20261127)
    found = []
    for patients in PATIENTS:
        if kind in ("normal", "clustered"):
            found.append(mean_coverage(kind, patients, cohorts=400, rng=rng))
        else:
            coverage_fn = pooled_coverage if kind == "pooled" else auc_coverage
            found.append(coverage_fn(patients, cohorts=400, rng=rng))
    assert 0.93 <= np.mean(found) <= 0.975, found
    assert min(found) >= 0.90, found


def test_percentiles_would_not():
    assert mean_coverage("normal", 6, cohorts=400, rng=np.random.default_rng(0), plain=True) < 0.90
