"""One scan's work: predict, find lesions, explain them, save - each step keyed by the content that it depends on.

A step whose key is found in the output folder is read back instead of computed again, so that an interrupted or
repeated run redoes only what is missing or has changed.
"""

from lesionwise.units.explained import Explained, tabulate
from lesionwise.units.keys import case_key, content_key
from lesionwise.units.prediction import Prediction, find_lesions, model_facts, predict_case
from lesionwise.units.record import save_prediction, save_table
from lesionwise.units.settings import Settings
from lesionwise.units.work import explain_case, find_case

__all__ = [
    "Explained",
    "Prediction",
    "Settings",
    "case_key",
    "content_key",
    "explain_case",
    "find_case",
    "find_lesions",
    "model_facts",
    "predict_case",
    "save_prediction",
    "save_table",
    "tabulate",
]
