"""The published recipe on made-up radiomics: by hand, with both kinds of resampling, and refused where patients repeat."""

import numpy as np
import pandas as pd
import pytest

from lesionwise.errors import InputError
from lesionwise.triage.published import published_recipe


def table(seed, *, patients=12, lesions=20, spread=1.0, prefix=""):
    """Radiomics that tell false lesions; patients differ, so that their lesions are not independent."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        own = spread * rng.standard_normal()
        for _ in range(lesions):
            false = rng.random() < 0.4
            row = {"subject": f"{prefix}{patient}", "outcome": "FP" if false else "TP", "weight": 1.0}
            values = (2.0 * false + own + rng.standard_normal(), rng.standard_normal())
            rows.append(row | {f"radiomics_{n}_FLAIR": v for n, v in enumerate(values)})
    return pd.DataFrame(rows)


def counts(held, missed=2):
    return pd.DataFrame({"subject": held["subject"].unique(), "FN": missed})


def test_false_lesions_are_dropped_and_lesions_look_more_certain_than_patients():
    held = table(1, prefix="h", spread=1.5)
    found = published_recipe(table(0), held, counts(held), n_resamples=300)
    true, false = (held["outcome"] == "TP").sum(), (held["outcome"] == "FP").sum()
    assert found.before["PPV"] == pytest.approx(true / (true + false))
    assert found.before["F1"] == pytest.approx(2 * true / (2 * true + false + 24))
    assert found.after["PPV"].estimate > found.before["PPV"]
    assert found.false_removed > found.true_lost
    low, high = found.lesions["PPV"]
    assert found.after["PPV"].high - found.after["PPV"].low > high - low
    assert "over lesions (as published)" in found.markdown()


def test_what_cannot_be_judged_is_refused():
    held = table(1, prefix="h")
    with pytest.raises(InputError, match="in both tables"):
        published_recipe(table(0), table(0), counts(held))
    with pytest.raises(InputError, match="found none"):
        published_recipe(held.filter(regex="^(?!radiomics)"), held, counts(held))
