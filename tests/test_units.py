"""One scan's work: the outputs are a contract, a repeated run redoes only what changed, the map sits on the lesion."""

import copy
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from lesionwise import lesion_table
from lesionwise.attribution import GradCAMPlusPlus, Gradient, SmoothGrad
from lesionwise.errors import InputError
from lesionwise.geometry.affine import to_mm
from lesionwise.geometry.volume import Case, ScanName
from lesionwise.io.derivative import list_scans, read_scan
from lesionwise.store import read_cohort
from lesionwise.units import Settings, explain_case, predict_case

SETTINGS = Settings(method=SmoothGrad(n_samples=4), lesions="largest:3", controls=2)


@pytest.fixture(scope="module")
def explained(small_case, bright_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    said: list[str] = []
    result = explain_case(bright_model, small_case, SETTINGS, out=out, announce_fn=said.append, version="test")
    return result, out, said


def test_files_are_the_contract(explained):
    result, out, _ = explained
    maps = sorted(result.maps)
    stem = "sub-small/anat/sub-small"
    expected = {"dataset_description.json", ".bidsignore", "lesions.parquet/sub-small.parquet"}
    expected |= {f"{stem}_label-L_probseg.nii.gz", f"{stem}_label-L_probseg.json", f"{stem}_label-L_mask.nii.gz"}
    expected |= {f"{stem}_seg-lesions_dseg.nii.gz", f"{stem}_seg-lesions_dseg.tsv"}
    expected |= {f"{stem}_lesions.tsv", f"{stem}_lesions.json"}
    for label in maps:
        expected |= {
            f"{stem}_seg-lesions_label-{label:03d}_desc-smoothgradmean_saliency{end}" for end in (".nii.gz", ".json")
        }
    noted = ".lesionwise/written/sub-small_maps.json"
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == expected | {noted}
    assert set(json.loads((out / noted).read_text())) == {name for name in expected if name.startswith("sub-")}
    controls = [one.label for one in result.instances if one.outcome == "TN"]
    assert len(maps) == 3 + len(controls)  # controls come along with the largest lesions
    assert controls


def test_table_has_the_columns_of_the_contract_and_a_row_per_instance(explained):
    result, out, _ = explained
    table = pd.read_csv(out / "sub-small/anat/sub-small_lesions.tsv", sep="\t", na_values="n/a", keep_default_na=False)
    per_channel = [
        "effect_in",
        "effect_in_se",
        "effect_rim",
        "effect_rim_se",
        "peak",
        "peak_se",
        "trough",
        "mean_in",
        "mean_shell_0_3mm",
        "mean_shell_3_7mm",
        "mass_in",
        "mass_out",
        "share",
    ]
    base = ["lesion", "outcome", "volume_mm3", "x_mm", "y_mm", "z_mm", "probability_mean", "probability_max"]
    base += ["target_mean", "iou", "reference_lesions", "n_samples", "converged", "seconds"]
    assert list(table.columns) == base + [f"{m}_{c}" for c in ("FLAIR", "T1w") for m in per_channel]
    assert set(lesion_table.columns(("FLAIR", "T1w"))) == set(table.columns)
    assert len(table) == len(result.instances)
    assert set(table["outcome"]) >= {"TP", "TN"}
    explained_rows = table["lesion"].isin(result.maps)
    assert table.loc[explained_rows, "peak_FLAIR"].notna().all()
    assert table.loc[~explained_rows, "peak_FLAIR"].isna().all()
    assert np.allclose(table.loc[explained_rows, "share_FLAIR"] + table.loc[explained_rows, "share_T1w"], 1)
    sidecar = json.loads((out / "sub-small/anat/sub-small_lesions.json").read_text())
    assert set(sidecar) == set(table.columns)
    assert "log-odds" in sidecar["peak_FLAIR"]["Units"]


def test_map_sits_on_its_lesion_in_world_space(explained):
    """For any viewer: where the map's affine puts its mass is where the dseg's affine puts the lesion."""
    result, out, _ = explained
    dseg = nib.load(out / "sub-small/anat/sub-small_seg-lesions_dseg.nii.gz")
    for label in result.maps:
        saliency = nib.load(
            out / f"sub-small/anat/sub-small_seg-lesions_label-{label:03d}_desc-smoothgradmean_saliency.nii.gz"
        )
        assert saliency.get_data_dtype() == np.float32
        mass = np.abs(saliency.get_fdata()).sum(axis=-1)
        where = to_mm(np.argwhere(mass > 0), saliency.affine)
        centre = (where * mass[mass > 0][:, None]).sum(axis=0) / mass.sum()
        lesion = to_mm(np.argwhere(dseg.get_fdata() == label), dseg.affine)
        assert np.linalg.norm(centre - lesion.mean(axis=0)) < 1.5
        assert np.abs(where.min(axis=0) - lesion.min(axis=0)).max() <= 1 + 1e-4  # the receptive field adds one voxel


def test_what_is_read_back_is_what_was_computed(explained):
    result, out, _ = explained
    assert list_scans(out) == [ScanName("small")]
    scan = read_scan(out, ScanName("small"))
    assert np.array_equal(scan.probability, result.prediction)
    assert np.array_equal(scan.labels, result.labels)
    for label, saliency in result.maps.items():
        back = scan.maps[label]["smoothgradmean"]
        assert np.array_equal(back.data, saliency.data)
        assert back.box == saliency.box
        assert np.allclose(back.scan_affine, saliency.scan_affine)
    cohort = read_cohort(out)
    assert len(cohort) == len(result.instances)
    assert set(cohort["method"]) == {"smoothgradmean"}


def test_second_run_computes_nothing_and_a_changed_setting_only_its_part(
    explained, small_case, bright_model, monkeypatch
):
    result, out, _ = explained
    from lesionwise.units import prediction, work

    def forbidden(*args, **kwargs):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "predict", forbidden)
        patch.setattr(work.Session, "stream", forbidden)
        again = explain_case(bright_model, small_case, SETTINGS, out=out)
    pd.testing.assert_frame_equal(again.lesions, result.lesions, check_exact=False, rtol=1e-6)
    with monkeypatch.context() as patch:
        patch.setattr(prediction, "predict", forbidden)
        other = explain_case(bright_model, small_case, Settings(method=Gradient(), lesions="largest:1"), out=out)
    assert len(other.maps) == 1
    assert set(read_cohort(out)["method"]) == {"smoothgradmean", "gradient"}


def test_plan_is_announced_before_the_work(explained):
    _, _, said = explained
    plan = next(n for n, sentence in enumerate(said) if sentence.startswith("Plan: "))
    done = next(n for n, sentence in enumerate(said) if sentence.startswith("Explained "))
    assert plan < done
    assert "passes" in said[plan]
    assert "GiB" in said[plan]


@pytest.mark.parametrize("reference", ["none", "empty"])
def test_no_lesion_at_all_is_a_result(small_case, bright_model, reference, tmp_path):
    blank = None if reference == "none" else np.zeros_like(small_case.reference)
    case = Case(small_case.image, small_case.head, blank, ScanName("empty"))
    result = explain_case(bright_model, case, Settings(threshold=0.999999), out=tmp_path)
    assert len(result.lesions) == 0
    assert (tmp_path / "sub-empty/anat/sub-empty_lesions.tsv").read_text().count("\n") == 1
    assert len(read_scan(tmp_path, ScanName("empty")).lesions) == 0


def test_outcomes_without_reference_and_without_lesions_in_it(small_case, bright_model):
    settings = Settings(method=Gradient(), lesions="largest:1")
    alone = explain_case(bright_model, Case(small_case.image, small_case.head), settings)
    assert alone.lesions["outcome"].isna().all()
    empty = Case(small_case.image, small_case.head, np.zeros_like(small_case.reference))
    assert set(explain_case(bright_model, empty, settings).lesions["outcome"]) == {"FP"}


def test_missed_lesions_are_explained_over_the_reference(small_case, bright_model):
    result = explain_case(bright_model, small_case, Settings(method=Gradient(), threshold=0.9999))
    missed = result.lesions[result.lesions["outcome"] == "FN"]
    assert len(missed)
    assert missed["peak_FLAIR"].notna().all()
    assert (missed["probability_max"] <= 0.9999).all()


def test_prediction_does_not_depend_on_the_orientation_of_the_file(small_case, bright_model):
    """The same head stored as LAS, with the affine saying so, gives the same probabilities at the same places."""
    from lesionwise.geometry.volume import Volume

    flipped = small_case.image.affine.copy()
    flipped[:3, 3] = flipped[:3, :3] @ [small_case.image.shape[0] - 1, 0, 0] + flipped[:3, 3]
    flipped[:3, 0] *= -1
    image = Volume(small_case.image.data[:, ::-1].copy(), flipped, small_case.image.channels)
    other = Case(image, small_case.head[::-1].copy())
    straight = predict_case(bright_model, Case(small_case.image, small_case.head)).probability
    turned = predict_case(bright_model, other).probability
    assert np.allclose(turned[::-1], straight, atol=1e-6)


def test_the_sidecar_names_approximations(small_case, bright_model, tmp_path):
    settings = Settings(method=Gradient(), lesions="largest:1")
    exact = explain_case(bright_model, small_case, settings, out=tmp_path)
    near = explain_case(bright_model, small_case, replace(settings, lesion_window=True), out=tmp_path)
    told = [next(iter(found.maps.values())).provenance for found in (exact, near)]
    assert [one["Approximation"] for one in told] == ["none", "lesion-window"]
    assert told[0]["Key"] != told[1]["Key"]


def test_a_class_activation_map_has_one_channel_for_all(small_case, bright_model, tmp_path):
    settings = Settings(method=GradCAMPlusPlus(layer="0"), lesions="largest:1")
    result = explain_case(bright_model, small_case, settings, out=tmp_path)
    saliency = next(iter(result.maps.values()))
    assert saliency.channels == ("all",)
    assert saliency.provenance["Quantitative"] is False
    assert "peak_all" in result.lesions
    assert read_scan(tmp_path, ScanName("small")).maps[1]["gradcampp"].channels == ("all",)


def test_a_cross_validated_model_explains_a_patient_by_the_network_that_has_not_seen_them(small_case, bright_model):
    from lesionwise.models.folds import CrossValidated
    from lesionwise.segmenter import Segmenter

    with torch.no_grad():
        other = copy.deepcopy(bright_model.network)
        other[2].bias += torch.tensor([5.0, -5.0])[:]
    parts = (Segmenter(other, bright_model.spec), bright_model)
    model = CrossValidated(parts, (("somebody",), (small_case.name.subject,)))
    settings = Settings(method=SmoothGrad(n_samples=1), lesions="largest:1")
    explained = explain_case(model, small_case, settings)
    alone = explain_case(bright_model, small_case, settings)
    assert np.array_equal(explained.prediction, alone.prediction)
    assert any("fold 1" in note for note in explained.notes)
    assert explained.model["Fingerprint"] == model.fingerprint
    assert explained.model["NetworkFingerprint"] == bright_model.fingerprint


def test_a_scan_of_unknown_side_names_none(small_case, bright_model, tmp_path):
    """No coordinates, codes 0 in every image, maps on the whole grid (a crop could not be placed), and it is said."""
    # as a header without codes is read: axes towards the left, the middle of the grid at 0
    affine = small_case.image.affine.copy()
    affine[:3, :3] = np.diag([-1.0, 1.0, 1.0]) * small_case.image.voxel_sizes_mm
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(small_case.image.shape) - 1) / 2)
    case = replace(small_case, image=replace(small_case.image, affine=affine), sided=False, notes=("nothing known",))
    said: list[str] = []
    settings = Settings(method=Gradient(), lesions="largest:1")
    result = explain_case(bright_model, case, settings, out=tmp_path, announce_fn=said.append)
    assert "Note: nothing known" in said
    assert result.lesions[["x_mm", "y_mm", "z_mm"]].isna().all(axis=None)
    images = sorted(tmp_path.rglob("*.nii.gz"))
    assert len(images) == 4
    for path in images:
        header = nib.load(path).header
        assert int(header["sform_code"]) == int(header["qform_code"]) == 0
        assert header.get_data_shape()[:3] == case.image.shape
    (there,) = list_scans(tmp_path)
    scan = read_scan(tmp_path, there)
    assert scan.facts["LeftRightKnown"] is False
    assert scan.facts["Notes"] == ["nothing known"]
    assert np.allclose(scan.affine, affine)
    (label,) = result.maps
    assert np.array_equal(scan.maps[label]["gradient"].data, result.maps[label].data)
    again: list[str] = []
    explain_case(bright_model, case, settings, out=tmp_path, announce_fn=again.append)
    assert any("are there already and are kept" in sentence for sentence in again)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("lesions", 5, "Expected text for the setting lesions, found 5"),
        ("seed", "1", "Expected a whole number for the setting seed, found '1'"),
        ("controls", True, "Expected a whole number for the setting controls, found True"),
        ("threshold", [0.5], "Expected a number or nothing for the setting threshold"),
        ("snr", "yes", "Expected true or false for the setting snr"),
    ],
)
def test_a_setting_of_another_kind_is_refused_in_a_sentence(name, value, sentence):
    with pytest.raises(InputError, match=sentence.replace("[", r"\[")):
        Settings(**{name: value})
