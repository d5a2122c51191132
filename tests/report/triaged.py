"""What triage leaves beside a scan, made by hand: verdicts, notes, and likely misses at known places."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from lesionwise.io.derivative import ScanFiles, write_table

REASONS = [
    {"feature": "log_odds_max", "value": 2.9, "typical": 9.3, "weight": 2.0},
    {"feature": "fluid_mm", "value": 11.0, "typical": 5.1, "weight": 1.0},
]
FALSE = {
    "reasons": REASONS,
    "signs": ["thin", "small"],
    "reliance": {"channel": "FLAIR", "share": 0.69, "inside": 0.04},
}
FEATURES = {
    "log_odds_max": {
        "higher": "its highest probability is higher",
        "lower": "its highest probability is lower",
        "shown": "odds",
    },
    "fluid_mm": {"higher": "it is farther from fluid", "lower": "it is nearer to fluid", "shown": "{value} mm"},
}
MODEL = {
    "kind": "l1_logistic", "families": ["probability", "size"], "patients": 20, "true_lesions": 992, "false_lesions": 203,
    "rule": "called false so that at most 5 % of the true lesions are lost",
    "validation": {"scheme": "5 x 4 nested cross-validation by patient", "auc": 0.912, "auc_low": 0.865, "auc_high": 0.951,
                   "false_removed": 0.502, "true_lost": 0.0302},
}  # fmt: skip


def triage(out: Path, name, places, *, outcomes=None, notes=(), false=(1,), kept=(2,)):
    """Calls some lesions false and keeps others; `places` are (x, y, z) in mm, `outcomes` miss or other with a reference."""
    files = ScanFiles(out, name)
    rows = [(label, "TP", 0.71, "probably false", json.dumps(FALSE)) for label in false]
    rows += [(label, "TP", 0.0244, "keep", json.dumps({"reasons": REASONS})) for label in kept]
    columns = ["lesion", "outcome", "triage_p_false", "triage_verdict", "triage_reasons"]
    write_table(files.triage_table, pd.DataFrame(rows, columns=columns))
    files.triage_table.with_suffix(".json").write_text(
        json.dumps({"Model": MODEL, "Features": FEATURES, "Notes": list(notes)})
    )
    look = pd.DataFrame(np.reshape(places, (-1, 3)), columns=["x_mm", "y_mm", "z_mm"]).assign(
        p_lesion=np.nan, probability_max=0.44, volume_mm3=9, contrast_FLAIR=0.9, signs="small", outcome=outcomes
    )
    write_table(files.triage_look, look.assign(rank=np.arange(1, len(look) + 1)))
