"""Saved models: what is loaded judges as what was saved; nothing in a file can run."""

import json
import zipfile

import numpy as np
import pytest
from triage_models import by_volume

from lesionwise.errors import InputError, ModelFileError
from lesionwise.triage.model import SHIPPED, fit_model, load_triage, save_model
from lesionwise.triage.scorer import FeaturePreparation, LinearScorer

CHANNELS = ("FLAIR", "T1w")
FEW = ("probability", "size")


@pytest.mark.parametrize("kind", ["l1_logistic", "boosting"])
def test_loaded_judges_as_saved(lesions, held_out, tmp_path, kind):
    model, _ = fit_model(lesions, channels=CHANNELS, kind=kind, families=FEW)
    files = save_model(model, tmp_path / "m.json")
    loaded = load_triage(tmp_path / "m.json")
    table = model.table(held_out)
    np.testing.assert_array_equal(loaded.probability(loaded.table(held_out)), model.probability(table))
    assert (loaded.threshold, loaded.names, loaded.features) == (model.threshold, model.names, model.features)
    np.testing.assert_array_equal(loaded.true_typical, model.true_typical)
    assert [path.suffix for path in files] == [".json"]
    assert not any(b"sklearn" in path.read_bytes() for path in files)


def test_a_linear_model_holds_only_what_counts(lesions):
    model, fitted = fit_model(lesions, channels=CHANNELS)
    assert isinstance(model.scorer, LinearScorer)
    assert np.all(model.scorer.coefficients != 0)
    assert {"probability_max", "push_in_FLAIR"} <= set(model.names)
    assert len(model.names) < len(fitted.scorer.coefficients)


def test_pruning_changes_no_score(lesions):
    from lesionwise.triage.fitting import Cohort

    names = ["probability_max", "push_in_FLAIR", "volume_log", "elongation"]
    cohort = Cohort.of(lesions, names)
    scorer = LinearScorer.fit(cohort.table, cohort.false, weights=cohort.weights, strength=0.02)
    pruned, kept = scorer.pruned()
    assert 0 < len(kept) < len(names)
    np.testing.assert_allclose(pruned.log_odds(cohort.table[:, kept]), scorer.log_odds(cohort.table), rtol=1e-12)


def test_preparation_fills_cuts_and_standardises():
    table = np.array([[0.0, np.nan], [1.0, np.nan], [2.0, np.nan], [np.nan, np.nan]])
    prepared = FeaturePreparation.learn(table)
    out = prepared.apply(np.array([[np.nan, 7.0], [1e9, np.nan]]))
    assert out[0, 0] == pytest.approx(0.0)  # the median, which is also the mean here
    assert out[1, 0] == pytest.approx((prepared.high[0] - 1.0) / prepared.sd[0])  # cut off
    assert np.all(out[:, 1] == 0)  # a feature without any value has no say


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged or incomplete"),
        ("[]", "damaged or incomplete"),
        ('{"format": "other"}', "found format 'other'"),
        ('{"format": "lesionwise-triage", "version": 1}', "damaged or incomplete"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path, text, said):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ModelFileError, match=said):
        load_triage(tmp_path / "m.json")
    with pytest.raises(ModelFileError, match="there is no file"):
        load_triage(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("threshold",), "abc", "damaged or incomplete"),
        (("threshold",), float("nan"), "threshold between 0 and 1"),
        (("threshold",), 5, "threshold between 0 and 1"),
        (("features",), [], "found none"),
        (("calibration", "slope"), "abc", "damaged or incomplete"),
        (("calibration", "slope"), float("nan"), "finite numbers"),
        (("scorer", "intercept"), float("inf"), "finite numbers"),
        (("facts",), 3, "damaged or incomplete"),
    ],
)
def test_a_bad_value_gets_a_sentence(tmp_path, place, value, said):
    path = tmp_path / "m.json"
    save_model(by_volume(4.0), path)
    content = json.loads(path.read_text())
    *outer, last = place
    inner = content
    for name in outer:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=said):
        load_triage(path)


def test_nesting_that_no_reader_follows_gets_a_sentence(tmp_path):
    (tmp_path / "m.json").write_text("[" * 100_000)
    with pytest.raises(ModelFileError, match="damaged or incomplete"):
        load_triage(tmp_path / "m.json")


def test_models_are_saved_as_json_only(lesions, tmp_path):
    model, _ = fit_model(lesions, channels=CHANNELS)
    with pytest.raises(InputError, match=r"\.json"):
        save_model(model, tmp_path / "m.pkl")
    assert not list(tmp_path.iterdir())


def test_a_file_of_objects_beside_the_model_is_not_opened(lesions, tmp_path):
    """What earlier versions read: trees in a skops file, whose reader lets builtins.exec through."""
    skops = pytest.importorskip("skops")
    marker = tmp_path / "marker"
    leaf = lambda kind, loader, n, **more: {  # noqa: E731
        "__class__": kind, "__module__": "builtins", "__loader__": loader, "__id__": n, **more,
    }  # fmt: skip
    text = leaf("str", "JsonNode", 5, content=json.dumps(f"open({str(marker)!r}, 'w')"), is_json=True)
    empty = leaf("dict", "DictNode", 2, key_types=leaf("list", "ListNode", 3, content=[]), content={})
    schema = {
        **leaf("exec", "LossNode", 1), "content": empty, "protocol": 2, "_skops_version": skops.__version__,
        "__reduce__": {"args": leaf("tuple", "TupleNode", 4, content=[text])},
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "m.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    model, _ = fit_model(lesions, channels=CHANNELS, kind="boosting", families=FEW)
    save_model(model, tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text())
    content["scorer"] = {"kind": "boosting", "file": "m.skops"}
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match="Fit the model again"):
        load_triage(tmp_path / "m.json")
    assert not marker.exists()


def test_shipped_models_can_be_read():
    for path in SHIPPED.glob("*.json"):
        model = load_triage(path.stem)
        assert model.threshold > 0
        assert model.facts["patients"] >= 4
        assert model.features


def test_the_shipped_model_says_nothing_of_confluent_lesions():
    """Confluent lesions reach 50,000 mm3 (METHOD 8); no false lesion came near, so none of that size is called false."""
    shipped = load_triage("builtin")
    assert shipped.knows(50.0)
    for volume in (5e3, 1e4, 5e4):
        assert not shipped.knows(volume)
    assert not shipped.needs_maps
