"""One runner for work that is done scan by scan, whatever the work is (docs/cohort.md).

A `ScanUnit` is one scan's work; `run_cohort` does those that are not finished, on one process, several or a cluster.
"""

from lesionwise.cohort.runner import CohortResult, CohortRunner, run_cohort
from lesionwise.cohort.shard import Shard
from lesionwise.cohort.unit import Outcome, ScanUnit, UnitResult, is_finished

__all__ = ["CohortResult", "CohortRunner", "Outcome", "ScanUnit", "Shard", "UnitResult", "is_finished", "run_cohort"]
