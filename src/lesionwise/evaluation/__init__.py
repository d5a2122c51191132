"""How well models segment a data set: a per-scan function, the cohort's tables, and what they say."""

from lesionwise.evaluation.run import evaluate
from lesionwise.evaluation.tables import Evaluation, markdown

__all__ = ["Evaluation", "evaluate", "markdown"]
