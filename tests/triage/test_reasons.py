"""Reasons: they name real features, are exact for linear models, and say what is so."""

import numpy as np
import pytest

from lesionwise.triage.families import catalogue, of_families
from lesionwise.triage.model import fit_model
from lesionwise.triage.reasons import reasons, signs

CHANNELS = ("FLAIR", "T1w")


@pytest.fixture(scope="module", params=["l1_logistic", "boosting"])
def model(request, lesions):
    few = [*of_families(catalogue(CHANNELS), ("probability", "size")), "push_in_FLAIR", "push_in_T1w"]
    table = lesions[["subject", "outcome", "weight", *few]]
    families = ("probability", "size", "saliency")
    return fit_model(table, channels=CHANNELS, kind=request.param, families=families)[0]


def test_reasons_name_real_features_and_true_values(model, held_out):
    table = model.table(held_out)
    known = catalogue(CHANNELS)
    p = model.probability(table)
    for row in np.argsort(-p)[:5]:
        found = reasons(model, table[row], false=True)
        assert 1 <= len(found) <= 3
        assert len({reason.feature.concept for reason in found}) == len(found)
        for reason in found:
            assert known[reason.feature.name] == reason.feature
            assert reason.value == held_out[reason.feature.name].iloc[row]
            told = reason.as_dict()
            assert set(told) == {"feature", "value", "typical", "weight"}
            assert (told["value"] > told["typical"]) == (reason.value > reason.typical)
        weights = [reason.weight for reason in found]
        assert weights == sorted(weights, reverse=True)
        assert min(weights) > 0


def test_the_planted_cause_is_named(model, held_out):
    table = model.table(held_out)
    surest = np.argsort(-model.probability(table))[:10]
    named = {reasons(model, table[row], false=True, count=2)[0].feature.concept for row in surest}
    assert named <= {"probability", "push of FLAIR inside"}


def test_concepts_add_up_to_the_linear_model(lesions, held_out):
    """All concepts together take a lesion to the typical true one, whose log-odds are the rest."""
    model, _ = fit_model(lesions, channels=CHANNELS)
    scorer = model.scorer
    features = np.clip(model.table(held_out)[3], scorer.preparation.low, scorer.preparation.high)
    concepts = {f.concept for f in model.features}
    found = reasons(model, features, false=True, count=len(concepts))
    against = reasons(model, features, false=False, count=len(concepts))
    assert {r.against for r in found} == {"true"}
    assert {r.against for r in against} == {"false"}
    say = {}
    for concept in concepts:
        members = [n for n, f in enumerate(model.features) if f.concept == concept]
        moved = features.copy()
        moved[members] = model.true_typical[members]
        say[concept] = float(model.log_odds(features[None])[0] - model.log_odds(moved[None])[0])
    whole = float(model.log_odds(features[None])[0] - model.log_odds(model.true_typical[None])[0])
    assert sum(say.values()) == pytest.approx(whole)
    for reason in found:
        assert reason.weight == pytest.approx(say[reason.feature.concept])


def test_unknown_features_have_no_say(model, held_out):
    assert reasons(model, np.full(len(model.features), np.nan), false=True) == []


def test_signs_of_shape_and_place():
    assert signs({"elongation": 0.3, "depth_max_mm": 1.0}) == ["thin"]
    assert signs({"fluid_share": 0.4, "head_depth_mm": 40.0}) == ["fluid_rim"]
    assert signs({"head_depth_mm": 2.0}) == ["surface"]
    assert signs({"elongation": float("nan")}) == []
