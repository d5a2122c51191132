"""Words: the numbers they hold are the table's, and signs are told the right way round."""

import pytest

from lesionwise.report.narrative import headline, number, sentence, warnings

CHANNELS = ("FLAIR", "T1w")
UNITS = "log-odds per standard deviation of the channel in the head"


def row(**changes):
    base = {
        "outcome": "TP", "volume_mm3": 135.0, "probability_mean": 0.871, "converged": None,
        "peak_FLAIR": 0.042, "peak_se_FLAIR": 0.003, "trough_FLAIR": -0.02, "mean_in_FLAIR": 0.012,
        "mean_shell_0_3mm_FLAIR": -0.004, "share_FLAIR": 0.83,
        "peak_T1w": 0.01, "peak_se_T1w": 0.001, "trough_T1w": -0.015, "mean_in_T1w": -0.006,
        "mean_shell_0_3mm_T1w": -0.003, "share_T1w": 0.17,
    }  # fmt: skip
    return base | changes


def test_one_sentence_holds_the_tables_numbers_and_signs():
    said = sentence(row(), CHANNELS, units=UNITS)
    assert said == (
        "FLAIR drives this lesion: 83% of the map's total weight; strongest push 0.042 ± 0.003 log-odds per SD. "
        "Brighter FLAIR inside the lesion speaks for it; brighter signal within 3 mm around it speaks against it. "
        "Darker T1w inside the lesion speaks for it, and so does darker signal within 3 mm around it."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"share_FLAIR": 0.2, "share_T1w": 0.8}, "T1w drives this lesion: 80%"),
        ({"share_FLAIR": 0.52, "share_T1w": 0.48}, "weigh about the same; FLAIR holds 52%"),
        ({"share_FLAIR": 0.95, "share_T1w": 0.05}, "T1w hardly matters (5%)"),
        ({"mean_in_FLAIR": -0.012}, "Darker FLAIR inside the lesion speaks for it, and so does darker signal"),
        ({"mean_in_FLAIR": 0.0001}, "FLAIR inside the lesion has no clear direction"),
        ({"mean_shell_0_3mm_FLAIR": 0.0}, "the 3 mm around it hardly count"),
        ({"peak_FLAIR": None, "peak_T1w": float("nan")}, "has no map"),
    ],
)
def test_what_is_said_follows_the_table(changes, words):
    assert words in sentence(row(**changes), CHANNELS, units=UNITS)


def test_methods_that_do_not_measure_say_so():
    said = sentence(row(), CHANNELS, units="1", quantitative=False)
    assert "locates but does not measure" in said
    assert "drives" not in said


def test_headline():
    assert headline(row()) == "Found by the network and marked in the reference, 135 mm³, mean probability 0.87."
    assert headline(row(outcome=None)).startswith("Found by the network; no reference was given")


def test_warnings_are_for_what_is_wrong_only():
    assert warnings(row(), CHANNELS, touches_edge=False) == []
    found = warnings(row(converged=False, peak_se_T1w=0.004, volume_mm3=2500.0), CHANNELS, touches_edge=True)
    for word, text in zip(("converged", "T1w peak", "border", "2\u202f500"), found, strict=True):
        assert word in text
    assert "FLAIR" not in " ".join(found)


def test_numbers():
    assert [number(value) for value in (0.012345, -3.0, 12345.6, float("nan"), None, 1.2e-7)] == [
        "0.0123", "−3", "12\u202f346", "n/a", "n/a", "1.2·10^−7",
    ]  # fmt: skip
