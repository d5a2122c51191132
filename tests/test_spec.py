"""A spec that does not describe a model is refused in one sentence that says what a field may be, from Python and TOML."""

import tomllib

import pytest
import tomli_w
import torch

from lesionwise.attribution.target import target_named
from lesionwise.errors import InputError, ModelFileError
from lesionwise.models.statedict import spec_of, spec_table
from lesionwise.spec import FixedNormalisation, Spec
from lesionwise.windows import probability

GIVEN = {"name": "x", "channels": ["FLAIR", "T1w"], "window": [16, 16, 16]}
WRONG = [
    ({"normalisation": "minmax"}, "zscore, none, a mean and an SD per channel, or a function, found 'minmax'"),
    ({"blending": "gauss"}, "blending to be gaussian or constant, found 'gauss'"),
    ({"activation": "sigmoide"}, "activation to be softmax or sigmoid, found 'sigmoide'"),
    ({"placement": "torchio"}, "placement to be monai or nnunet, found 'torchio'"),
    ({"threshold": 2}, "between 0 and 1, found 2"),
    ({"threshold": "0.3"}, "between 0 and 1, found '0.3'"),
    ({"threshold": float("nan")}, "between 0 and 1, found nan"),
    ({"channels": "FLAIR"}, r"list of names, such as \['FLAIR', 'T1w'\], found 'FLAIR'"),
    ({"channels": ["FLAIR", "FLAIR"]}, "FLAIR twice in FLAIR, FLAIR: name the inputs in order with"),
    ({"channels": []}, "at least one input channel"),
    ({"window": 32}, r"three whole numbers .* found 32"),
    ({"window": [16, 16]}, r"three whole numbers .* found \[16, 16\]"),
    ({"window": [16, 16, 0]}, "three whole numbers"),
    ({"window": [16.5, 16, 16]}, "three whole numbers"),
    ({"overlap": 1}, "at least 0 and below 1, found 1"),
    ({"sigma_scale": 0}, "above 0, found 0"),
    ({"classes": 2.0}, "classes as a whole number"),
    ({"members": 0}, "members as a whole number of at least 1, found 0"),
    ({"lesion_class": 2}, r"one of 0\.\.1, found 2"),
    ({"lesion_class": [0, 1]}, "a class that is no lesion"),
    ({"lesion_class": [1, 1], "classes": 3}, "every lesion class once"),
    ({"min_size_vox": -1}, "at least 0, found -1"),
    ({"orientation": "RAR"}, "RAS or LPS .* found 'RAR'"),
    ({"spacing_mm": 0}, "0.05 to 20 mm"),
    ({"spacing_mm": [1, 1, 1]}, "0.05 to 20 mm"),
    ({"normalisation": {"mean": [1.0]}}, "with mean and sd, found mean"),
    ({"normalisation": {"mean": [1.0], "sd": [2.0]}}, "for the channels FLAIR, T1w, found 1 of each"),
    ({"normalisation": {"mean": [1.0, 2.0], "sd": [2.0, 0.0]}}, "SD above 0"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_fields_from_python(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        Spec(**{**GIVEN, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_fields_from_toml(changes, message, tmp_path):
    table = tomllib.loads(tomli_w.dumps({"spec": {**GIVEN, **changes}}))
    with pytest.raises(ModelFileError, match=message) as caught:
        spec_of(table, where=tmp_path / "net.toml")
    assert "net.toml" in str(caught.value)


def test_lists_are_taken_as_they_come_from_toml_and_go_back(tmp_path):
    spec = Spec(
        **GIVEN, classes=4, lesion_class=[1, 3], orientation=None,
        normalisation=FixedNormalisation(mean=(100.0, 80.0), sd=(20.0, 10.0)),
    )  # fmt: skip
    assert (spec.channels, spec.window, spec.lesion_classes) == (("FLAIR", "T1w"), (16, 16, 16), (1, 3))
    text = tomli_w.dumps({"spec": spec_table(spec)})
    assert spec_of(tomllib.loads(text), where=tmp_path) == spec
    with pytest.raises(InputError, match="function"):
        spec_table(Spec(**GIVEN, normalisation=lambda image, head: image))


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_several_lesion_classes_are_one(activation, members):
    """The probability is that of any of them, and the log-odds are its log-odds; one class is the special case."""
    spec = Spec(**GIVEN, classes=4, lesion_class=(1, 3), activation=activation, members=members)
    z = torch.randn(4 * members, 50, dtype=torch.float64) * 3
    each = z.reshape(members, 4, 50)
    if activation == "softmax":
        p = torch.softmax(each, dim=1)[:, [1, 3]].sum(dim=1).mean(dim=0)
    else:
        a, b = torch.sigmoid(each[:, 1]), torch.sigmoid(each[:, 3])
        p = (a + b - a * b).mean(dim=0)
    assert torch.allclose(probability(z, spec), p)
    assert torch.allclose(target_named("log_odds").value(z, spec), torch.log(p) - torch.log1p(-p), atol=1e-9)
    assert torch.allclose(target_named("probability").value(z, spec), p)
    seeds = target_named("log_odds").seeds(z, spec)
    step = 1e-6 * torch.randn(z.shape, dtype=torch.float64)
    moved = target_named("log_odds").value(z + step, spec) - target_named("log_odds").value(z - step, spec)
    assert torch.allclose(2 * (seeds * step).sum(dim=0), moved, atol=1e-11)
    assert not target_named("log_odds").is_linear(spec)


def test_the_union_of_tiny_sigmoids_does_not_underflow():
    spec = Spec(**GIVEN, classes=2, lesion_class=(0, 1), activation="sigmoid")
    z = torch.full((2, 1), -60.0)
    assert float(target_named("log_odds").value(z, spec)) == pytest.approx(-60.0 + 0.6931472, abs=1e-4)
    assert torch.isfinite(target_named("log_odds").seeds(z, spec)).all()
