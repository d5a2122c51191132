"""Words: the numbers they hold are those of the map, and signs are told the right way round."""

import pytest

from lesionwise.report.narrative import (
    certainty,
    covered,
    headline,
    number,
    place,
    sentences,
    signed,
    unmeasured,
    warnings,
)
from lesionwise.report.settings import settings_in_words
from lesionwise.report.told import Beside, Drawn, Push

CHANNELS = ("FLAIR", "T1w")
UNITS = "log-odds per standard deviation of the channel in the head"
FLAIR = Push("FLAIR", 3.14, 0.2, -0.4, 0.1, 0.0, 0.05, 0.0)
T1W = Push("T1w", -1.2, 0.1, 0.25, None, 0.23, -0.02, 4.12)


def row(**changes):
    base = {"outcome": "TP", "volume_mm3": 135.0, "probability_mean": 0.871, "converged": None, "target_mean": 2.5}
    return base | changes


def test_the_effect_leads_and_every_number_is_the_maps():
    first, second = sentences(row(), (FLAIR, T1W), units=UNITS)
    assert first == "One SD brighter throughout it moves its log-odds: FLAIR by +3.1 ± 0.2; T1w by −1.20 ± 0.10."
    assert second == (
        "In the 3 mm around it: FLAIR −0.40 ± 0.10; T1w +0.25. FLAIR pushes one way throughout it; its strongest "
        "value speaks for the lesion and lies inside. "
        "T1w pushes one way in 77 % of it; its strongest value speaks against the lesion and lies 4.1 mm outside."
    )


def test_a_missed_lesion_and_a_control_are_told_what_would_change():
    for outcome in ("FN", "TN"):
        said = sentences(row(outcome=outcome, target_mean=-4.0), (FLAIR,), units=UNITS)[0]
        assert said.startswith("The network holds it at a log-odds of −4. One SD brighter throughout it would move")


def test_controls_of_its_size_stand_beside_it():
    few = Push("FLAIR", 3.0, 0.2, 0.0, 0.1, 0.0, 0.1, 0.0, Beside(-0.1, 0.2, 0.9, 4, True))
    said = "Healthy tissue of this size (4 control regions): FLAIR −0.1 to +0.9, weaker than here."
    assert said in sentences(row(), (few,), units=UNITS)[0]
    one = Push("FLAIR", 3.0, 0.2, 0.0, 0.1, 0.0, 0.1, 0.0, Beside(0.2, 0.2, 0.2, 1, False))
    said = "Healthy tissue of other sizes (1 control region): FLAIR +0.2, weaker than here."
    assert said in sentences(row(), (one,), units=UNITS)[0]


@pytest.mark.parametrize(
    ("effect", "se", "low", "high", "told"),
    [
        (3.0, 0.1, 2.5, 4.0, "as here"),
        (3.0, 0.1, 3.1, 4.0, "as here"),  # apart by less than two standard errors
        (3.0, 0.1, 0.1, 0.4, "weaker than here"),
        (3.0, 0.1, 5.0, 8.0, "stronger than here"),
        (-3.0, 0.1, -0.4, -0.1, "weaker than here"),
        (-3.0, None, -9.0, -5.0, "stronger than here"),
        (-3.0, 0.1, 5.0, 8.0, "the other way"),
        (-1.13, 0.02, 0.92, 0.92, "the other way"),
        (3.0, 0.1, -0.4, -0.2, "weaker than here"),
        (3.0, 0.1, -0.1, 0.9, "weaker than here"),
    ],
)
def test_whether_healthy_tissue_answers_as_strongly(effect, se, low, high, told):
    push = Push("FLAIR", effect, se, 0.0, 0.1, 0.0, 0.1, 0.0, Beside(low, low, high, 3, True))
    assert sentences(row(), (push,), units=UNITS)[0].endswith(f", {told}.")


def test_what_is_within_noise_is_called_monte_carlo_noise():
    unclear = Push("FLAIR", 0.1, 0.2, 0.0, 0.1, 0.0, 0.1, None)
    said = " ".join(sentences(row(), (unclear,), units=UNITS))
    assert "(within Monte-Carlo noise)" in said
    assert "far outside" in said


def test_methods_that_do_not_measure_say_so():
    said = unmeasured("Grad-CAM++", 0.5)
    assert "locates but does not measure" in said
    assert "log-odds" not in said
    told = dict(settings_in_words({"Method": "gradcampp", "Quantitative": False, "Units": "1", "Target": "log_odds"}))
    assert told["Method"] == "Grad-CAM++"
    assert told["Values"].startswith("locate only")


def test_headline_says_how_much_of_the_reference_is_drawn():
    assert headline(row()) == "Found by the network and marked in the reference, 135 mm³, mean probability 0.87."
    assert headline(row(outcome=None)).startswith("Found by the network; no reference was given")
    assert headline(row(), Drawn(1, 848.0, 30.0)).endswith(
        "It draws 30 of the 848 mm³ of the reference lesion it covers."
    )
    assert covered(Drawn(2, 848.0, 30.0, (3, 7))).endswith("of the 2 reference lesions it covers (number 3, 7).")


def test_place_and_contrast():
    assert place("right", "", {"FLAIR": 0.01}) == "Right. As bright as its surroundings on FLAIR."
    assert place("", "", {}) == ""


@pytest.mark.parametrize(
    ("p", "said"), [(0.0, "under 0.01"), (0.004, "under 0.01"), (0.5, "0.50"), (0.999, "over 0.99"), (1.0, "over 0.99")]
)
def test_probabilities_are_never_told_as_nothing_or_all(p, said):
    assert certainty(p) == said
    assert f"mean probability {said}" in headline(row(probability_mean=p))


def test_warnings_are_for_what_is_wrong_only():
    peaks = {"peak_FLAIR": 0.04, "peak_se_FLAIR": 0.003, "peak_T1w": 0.01, "peak_se_T1w": 0.004}
    assert warnings(row(), CHANNELS, touches_edge=False) == []
    found = warnings(row(converged=False, volume_mm3=2500.0, **peaks), CHANNELS, touches_edge=True)
    for word, text in zip(("converged", "T1w peak", "border", "2\u202f500"), found, strict=True):
        assert word in text
    assert "FLAIR" not in " ".join(found)
    with_effects = row(**peaks, effect_in_se_FLAIR=0.1, effect_in_se_T1w=0.1)
    assert warnings(with_effects, CHANNELS, touches_edge=False) == [], "the sentence says it, of the effect"


def test_numbers():
    assert [number(value) for value in (0.012345, -3.0, 12345.6, float("nan"), None, 1.2e-7)] == [
        "0.0123", "−3", "12\u202f346", "n/a", "n/a", "1.2·10^−7",
    ]  # fmt: skip
    assert number(634.0, 2) == "634"
    assert signed(-0.05, 0.0) == "−0.05"
