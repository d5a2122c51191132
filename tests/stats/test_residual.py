import numpy as np
import pandas as pd

from lesionwise.stats import what_is_left


def cohort(seed=0, patients=20, each=15):
    """Size decides the label; `echo` is size with noise; `news` adds what size does not say."""
    rng = np.random.default_rng(seed)
    n = patients * each
    size, hidden = rng.standard_normal((2, n))
    return pd.DataFrame(
        {
            "true": size + hidden + 0.5 * rng.standard_normal(n) > 0,
            "size": size,
            "echo": size + 0.3 * rng.standard_normal(n),
            "news": hidden + 0.3 * rng.standard_normal(n),
            "subject": np.repeat(np.arange(patients), each),
        }
    )


def left(frame, feature, **options):
    return what_is_left(
        frame,
        label="true",
        feature=feature,
        covariates=["size"],
        patient="subject",
        rng=np.random.default_rng(1),
        n_resamples=300,
        **options,
    )


def test_an_echo_of_size_leaves_nothing_though_it_tells_the_label_alone():
    got = left(cohort(), "echo")
    assert got.alone > 0.7
    assert not got.difference.excludes(0.0)
    assert abs(got.difference.estimate) < 0.02


def test_new_information_is_left_over():
    got = left(cohort(), "news")
    assert got.together > got.without + 0.1
    assert got.difference.low > 0.05


def test_patients_in_training_are_not_scored():
    """A label that is a patient's own cannot be told by a patient's number: unseen patients score near chance."""
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(24), 20)
    frame = pd.DataFrame({"subject": subject, "true": (rng.random(24) < 0.5)[subject], "size": rng.random(480)})
    frame["news"] = rng.standard_normal(24)[subject]
    assert left(frame, "news").together < 0.75


def test_few_patients_and_one_sided_labels():
    few = left(cohort(patients=3), "news")
    assert np.isfinite(few.together)
    assert np.isnan(few.difference.low)
    frame = cohort()
    frame["true"] = frame["subject"] == 0
    assert "two of each" in left(frame, "news").note
