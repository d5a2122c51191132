"""What triage says, in words: everything it can write is understood, and nothing is told the wrong way round."""

import json

import pytest

from lesionwise.report.verdicts import SIGNS, Verdict, candidate, judge, note, reason
from lesionwise.triage.baselines import COMMON
from lesionwise.triage.families import catalogue
from lesionwise.triage.reasons import Reason, reliance, signs

JARGON = ("log-odds", "entropy", "head heights", "ln mm3")


def told(feature, value=0.7, typical=0.4, against="true"):
    """Through the file: what triage writes is what the report reads."""
    written = json.loads(json.dumps(Reason(feature, value, typical, 1.0, against).as_dict()))
    return reason(written, {feature.name: vars(feature.phrased())})


def test_features_of_the_shipped_kind_are_told_without_jargon():
    for feature in COMMON:
        higher, lower = told(feature), told(feature, 0.4, 0.7, "false")
        assert higher != lower
        assert " lesions" not in higher, "the kind that it is compared with stands once, before all reasons"
        assert not any(word in higher + lower for word in JARGON)


def test_every_feature_keeps_both_values():
    for feature in catalogue(("FLAIR", "T1w"), radiomics=["radiomics_a_FLAIR"]).values():
        said = told(feature, 3.0, -2.0)
        assert "usual: " in said or feature.family == "place"
        assert "higher than in" not in said


def test_values_are_shown_on_a_scale_that_is_known():
    known = catalogue(("FLAIR",))
    assert told(known["log_odds_max"], 0.0, 9.0) == "its highest probability is lower (0.50; usual: over 0.99)"
    assert told(known["volume_log"], 3.0, 2.0) == "it is larger (20 mm³; usual: 7.4 mm³)"
    assert told(known["fluid_share"], 0.1, 0.25) == "there is less fluid around it (10 %; usual: 25 %)"


def test_the_sign_of_a_reason_is_that_of_its_numbers():
    for feature in COMMON:
        phrased = feature.phrased()
        assert told(feature, 2.0, 1.0).startswith(phrased.higher)
        assert told(feature, 1.0, 2.0).startswith(phrased.lower)


def test_what_takes_no_part_in_the_verdict_is_told_apart():
    row = {"elongation": 0.2, "depth_max_mm": 1.0, "fluid_share": 0.2, "head_depth_mm": 20.0, "volume_log": 2.0}
    handed = {
        "reasons": [Reason(COMMON[0], 0.6, 0.9, 1.0, "true").as_dict()],
        "signs": signs(row),
        "reliance": reliance({"share_FLAIR": 0.8, "mass_in_FLAIR": 1.0, "mass_out_FLAIR": 3.0}, ["FLAIR"]),
    }
    features = {COMMON[0].name: vars(COMMON[0].phrased())}
    judged = {"triage_verdict": "probably false", "triage_p_false": 0.834, "triage_reasons": json.dumps(handed)}
    verdict = Verdict.of(judged, features)
    assert (verdict.said, verdict.certainty, verdict.lead) == (
        "probably false",
        "83 % likely",
        "Unlike typical true lesions",
    )
    doubted = Verdict.of({**judged, "triage_verdict": "keep"}, features)
    assert (doubted.said, doubted.lead) == ("not sure enough to call it false", "Still, unlike typical false lesions")
    assert verdict.reasons == ("its probability is lower (mean 0.6; usual: 0.9)",)
    assert verdict.seen[1:] == ("the network relied on FLAIR (80 % of the map, 25 % of that inside the lesion)",)
    for hint in ("thin and long", "lines deep fluid", "smaller than 20 mm³"):
        assert hint in verdict.seen[0]


def test_every_sign_has_words():
    rows = ({"elongation": 0.2, "depth_max_mm": 1.0, "fluid_share": 0.2, "head_depth_mm": 20.0, "volume_log": 2.0},
            {"head_depth_mm": 1.0})  # fmt: skip
    assert {name for row in rows for name in signs(row)} == set(SIGNS)


def test_lesions_that_were_not_judged_say_why():
    why = json.dumps({"volume_mm3": 13811.0, "known_mm3": [6.0, 634.0]})
    verdict = Verdict.of({"triage_verdict": None, "triage_p_false": None, "triage_reasons": why})
    assert verdict.said == "not judged"
    assert "13\u202f811 mm³" in verdict.reasons[0]
    assert "6 to 634 mm³" in verdict.reasons[0]
    assert Verdict.of({"triage_verdict": None, "triage_reasons": float("nan")}) is None


def test_text_of_an_older_version_is_shown_as_it_stands():
    row = {"triage_verdict": "keep", "triage_p_false": 0.1, "triage_reasons": "the volume is higher; it is large"}
    assert Verdict.of(row).reasons == ("the volume is higher", "it is large")
    unjudged = Verdict.of({"triage_verdict": None, "triage_reasons": "not judged: 9 mm3"})
    assert unjudged.reasons == ("not judged: 9 mm³",)
    assert candidate({"words": "probability up to 0.44 in 9 mm3"}, ()) == "probability up to 0.44 in 9 mm³"


def test_notes_and_candidates_are_short():
    assert note("9 mm3") == "9 mm³"
    row = {
        "probability_max": 0.44,
        "volume_mm3": 9,
        "contrast_FLAIR": -0.94,
        "contrast_T1w": 0.1,
        "signs": "thin,small",
    }
    assert candidate(row, ("FLAIR", "T1w")) == (
        "probability up to 0.44 in 9 mm³; FLAIR darker than around by 0.9 SD; thin and long, as vessels are"
    )


def test_what_judged_is_told_from_what_is_known():
    assert judge({}) == ""
    assert judge({"kind": "boosting"}) == "Gradient-boosted trees."
    said = judge({"kind": "l1_logistic", "families": ["size"], "patients": 20, "rule": "a rule",
                  "validation": {"auc": 0.912, "true_lost": 0.03}})  # fmt: skip
    assert said == (
        "A linear model (L1 logistic regression) of size, fitted on 20 patients. Rule: a rule. "
        "Validation: AUC 0.91, 3 % of the true lesions lost."
    )


@pytest.mark.parametrize(("p", "said"), [(0.001, "under 1 %"), (0.06, "6 %"), (0.999, "over 99 %")])
def test_certainty_is_never_told_as_nothing_or_all(p, said):
    row = {"triage_verdict": "keep", "triage_p_false": p, "triage_reasons": ""}
    assert Verdict.of(row).certainty.startswith(f"{said} likely")
