"""Applying: verdicts on an explained scan, the cleaned mask, places to look at, the files and the command."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from triage_models import CHANNELS, by_volume
from triage_scans import ball_scan

from lesionwise.attribution import SmoothGrad
from lesionwise.errors import InputError
from lesionwise.io.derivative import read_scan
from lesionwise.io.nifti import read_image
from lesionwise.triage.apply import COLUMNS, FALSE, KEEP, apply_triage, look_here, triage_scan, write_triage
from lesionwise.triage.candidates import find_candidates, fit_candidates
from lesionwise.triage.cohort import Extras, measure_cohort, measure_scan
from lesionwise.triage.families import catalogue
from lesionwise.triage.likeness import Likeness
from lesionwise.triage.model import TriageModel, fit_model, save_model
from lesionwise.triage.radiomics import radiomic_features
from lesionwise.triage.scan import TriageScan
from lesionwise.units import Settings, explain_case


@pytest.fixture(scope="module")
def explained(small_case, bright_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    settings = Settings(method=SmoothGrad(n_samples=2), lesions="largest:6")
    return explain_case(bright_model, small_case, settings, out=out, version="test"), out


def test_verdicts_reasons_and_mask(explained):
    result, _ = explained
    volumes = result.lesions.set_index("lesion")["volume_mm3"]
    middle = float(np.log(volumes.loc[list(result.maps)].median())) + 1e-6
    triaged = triage_scan(result, by_volume(middle))
    table = triaged.lesions.set_index("lesion")
    assert list(table.columns) == ["outcome", *COLUMNS]
    assert list(table.index) == list(result.lesions["lesion"])
    predicted = list(result.lesions.loc[result.lesions["outcome"].isin(["TP", "FP"]), "lesion"])
    judged = [label for label in result.maps if label in predicted]
    assert len(judged) > 1
    for label in judged:
        expected = FALSE if np.log(volumes[label]) < middle else KEEP
        assert table.loc[label, "triage_verdict"] == expected
        reasons = json.loads(table.loc[label, "triage_reasons"])["reasons"]
        told = next(reason for reason in reasons if reason["feature"] == "volume_log")
        assert told["value"] == pytest.approx(np.log(volumes[label]), rel=1e-3)
        assert (told["value"] < told["typical"]) == (expected == FALSE)
    others = table[~table.index.isin(judged)]
    assert others["triage_verdict"].isna().all()
    false = list(table.index[table["triage_verdict"] == FALSE])
    assert 0 < len(false) < len(judged)
    np.testing.assert_array_equal(triaged.mask, result.mask & ~np.isin(result.labels, false))


def test_from_files_as_from_memory(explained):
    result, out = explained
    model = by_volume(4.0)
    again = apply_triage(read_scan(out, result.case.name), model)
    here = apply_triage(result, model)
    assert list(again["triage_verdict"]) == list(here["triage_verdict"])
    np.testing.assert_allclose(again["triage_p_false"], here["triage_p_false"], rtol=1e-4)


def test_models_without_maps_judge_every_predicted_lesion(explained):
    result, _ = explained
    table = apply_triage(result, by_volume(4.0, families=("size",)))
    predicted = table["outcome"].isin(["TP", "FP"])
    assert table.loc[predicted, "triage_verdict"].notna().all()
    assert table.loc[~predicted, "triage_verdict"].isna().all()


def test_sizes_unknown_to_the_model_are_kept_without_a_verdict(explained):
    result, _ = explained
    volumes = result.lesions.set_index("lesion")["volume_mm3"].loc[list(result.maps)]
    model = by_volume(0.0)
    known = replace(model, facts={**model.facts, "volume_mm3": [0.0, float(volumes.max()) - 1e-6]})
    triaged = triage_scan(result, known)
    table, large = triaged.lesions.set_index("lesion"), int(volumes.idxmax())
    assert pd.isna(table.loc[large, "triage_verdict"])
    assert np.isnan(table.loc[large, "triage_p_false"])
    assert json.loads(table.loc[large, "triage_reasons"])["volume_mm3"] == pytest.approx(volumes[large], abs=0.06)
    assert triaged.mask[result.labels == large].all()
    assert (
        table["triage_verdict"].notna().sum() == triage_scan(result, model).lesions["triage_verdict"].notna().sum() - 1
    )


def test_written_files(explained, tmp_path):
    result, _ = explained
    model = by_volume(4.0)
    triaged = triage_scan(result, model)
    files = write_triage(triaged, tmp_path, model=model)
    stem = "sub-small"
    assert {p.name for p in files} == {
        f"{stem}_triage.tsv",
        f"{stem}_triage.json",
        f"{stem}_lookhere.tsv",
        f"{stem}_lookhere.json",
        f"{stem}_label-L_desc-triage_mask.nii.gz",
    }
    table = pd.read_csv(files[0], sep="\t", na_values="n/a", keep_default_na=False)
    sidecar = json.loads(files[1].read_text())
    assert set(table.columns) < set(sidecar)
    look, look_sidecar = pd.read_csv(files[2], sep="\t"), json.loads(files[3].read_text())
    assert set(look.columns) == set(look_sidecar)
    mask, affine = read_image(files[4])
    np.testing.assert_array_equal(mask > 0, triaged.mask)
    np.testing.assert_allclose(affine, result.case.image.affine)


def test_other_channels_and_missing_networks_are_refused(explained, lesions):
    result, _ = explained
    model = by_volume(4.0)
    other = TriageModel(
        model.features,
        model.scorer,
        model.calibration,
        0.5,
        model.true_typical,
        model.false_typical,
        {"channels": ["X"]},
    )
    with pytest.raises(InputError, match="fitted on the channels X"):
        apply_triage(result, other)
    asks, _ = fit_model(
        lesions.assign(drop_removed=lesions["probability_max"]), channels=CHANNELS, families=("context",)
    )
    with pytest.raises(InputError, match="asks the network again"):
        apply_triage(result, asks)


def test_another_network_is_said(explained):
    result, _ = explained
    model = by_volume(4.0)
    facts = {"channels": list(CHANNELS), "fingerprint": "other", "method": "smoothgradmean", "samples": 50}
    told = TriageModel(
        model.features, model.scorer, model.calibration, 0.5, model.true_typical, model.false_typical, facts
    )
    notes = " ".join(triage_scan(result, told).notes)
    assert "another network" in notes
    assert "another samples (50, here 2)" in notes
    of_folds = replace(told, facts={**facts, "explained_by": result.model["Fingerprint"]})
    assert "another network" not in " ".join(triage_scan(result, of_folds).notes)


def test_a_models_caution_goes_with_every_scan(explained):
    result, _ = explained
    model = by_volume(4.0)
    told = replace(model, facts={**model.facts, "caution": "Fitted on dolls."})
    assert "Fitted on dolls." in triage_scan(result, told).notes
    assert "Fitted on dolls." not in triage_scan(result, model).notes


@pytest.mark.parametrize(("away", "notes"), [(1e3, 1), (0.0, 0)])
def test_a_scan_unlike_the_fitted_patients_is_said(explained, away, notes):
    """The note names what is strange, and changes no verdict; a scan like the fitted ones gets none."""
    result, _ = explained
    model = by_volume(4.0)
    seen = TriageScan.of(result)
    measured = measure_scan(seen, labels=[int(label) for label in seen.judged()["lesion"]])
    known = Likeness(np.nanmedian(model.table(measured), axis=0) + away, np.ones(len(model.features)), 1.0)
    found = triage_scan(result, replace(model, likeness=known, facts={**model.facts, "patients": 40}))
    said = [note for note in found.notes if "unlike those of the 40 patients" in note]
    assert len(said) == notes
    assert all("the volume (ln mm3)" in note for note in said)
    assert found.lesions["triage_verdict"].equals(triage_scan(result, model).lesions["triage_verdict"])


def test_context_answers_as_the_network_must(explained, bright_model):
    """The network sees 3 voxels and likes bright FLAIR: without the lesion its score falls, without surroundings not."""
    result, _ = explained
    labels = list(result.maps)[:2]
    found = measure_scan(TriageScan.of(result), extras=Extras(context=True), model=bright_model, labels=labels)
    assert len(found) == 2
    assert (found["drop_removed"] > 0.5).all()
    assert (found["drop_channel_FLAIR"] > found["drop_channel_T1w"].abs()).all()
    np.testing.assert_allclose(found["drop_isolated"].to_numpy(dtype=float), 0, atol=1e-4)


def test_candidates_hold_no_predicted_voxel(explained):
    result, _ = explained
    scan = TriageScan.of(result)
    found = find_candidates(scan)
    assert len(found)
    assert (found["probability_max"] <= scan.threshold).all()
    deep = found[found["near_surface"] == 0]
    assert deep["probability_max"].is_monotonic_decreasing
    assert found["near_surface"].is_monotonic_increasing
    assert set(found["outcome"]) <= {"miss", "other"}


def test_likely_misses_lie_in_the_brain_and_near_its_surface_come_last():
    """Where a channel is 0 there is no brain; what touches such voxels is its edge."""
    scan, _ = ball_scan()
    image = scan.case.image.data.copy()
    image[1, 28:, :20] = 0.0
    image[0, 8, 30, 30] = 0.0  # a hole that tissue closes around
    places = {"outside": (30, 10, 10), "touching": (26, 10, 10), "shallow": (20, 3, 30), "deep": (8, 30, 30)}
    probability = np.where(scan.mask, 0.8, 0.0).astype(np.float32)
    for p, (i, j, k) in zip((0.45, 0.4, 0.35, 0.2), places.values(), strict=True):
        probability[i : i + 2, j, k : k + 2] = p
    case = replace(scan.case, image=replace(scan.case.image, data=image))
    found = find_candidates(replace(scan, probability=probability, case=case))
    assert found[["x_mm", "y_mm"]].to_numpy().tolist() == [[8.5, 30.0], [20.5, 3.0]]
    assert found["near_surface"].tolist() == [0.0, 1.0]
    blind = find_candidates(replace(scan, probability=probability, case=None), measured=False)
    assert len(blind) == 4


def test_where_no_side_is_known_likely_misses_have_voxels_and_no_coordinates(tmp_path):
    scan, _ = ball_scan()
    probability = np.where(scan.mask, 0.8, 0.0).astype(np.float32)
    probability[8:10, 30, 30:32] = 0.3
    affine = np.array([[-1.0, 0, 0, 17], [0, 1, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1]])
    scan = replace(scan, probability=probability, affine=affine, sided=False)
    look = look_here(scan, by_volume(4.0))
    assert look[["x_mm", "y_mm", "z_mm"]].isna().all(axis=None)
    assert look[["i", "j", "k"]].to_numpy() == pytest.approx(np.array([[8.5, 30.0, 30.5]]))
    assert "i" not in look_here(replace(scan, sided=True), by_volume(4.0))


def test_planted_misses_are_ranked_first():
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(12):
        for n in range(12):
            miss = n < 4
            row = {name: rng.normal() for name in catalogue(CHANNELS)} | {
                "image_contrast_FLAIR": rng.normal() + 3 * miss
            }
            rows.append({"subject": str(patient), "outcome": "miss" if miss else "other", "weight": 1.0, **row})
    table = pd.DataFrame(rows)
    model = fit_candidates(table, channels=CHANNELS)
    assert model is not None
    p = model.probability(table)
    assert p[table["outcome"] == "miss"].mean() > 2 * p[table["outcome"] == "other"].mean()
    again = type(model).from_dict(json.loads(json.dumps(model.as_dict())))
    np.testing.assert_array_equal(again.probability(table), p)
    assert fit_candidates(table[table["outcome"] == "other"], channels=CHANNELS) is None


def test_missing_mirp_names_the_extra(explained, monkeypatch):
    import sys

    from lesionwise.errors import MissingExtraError

    result, _ = explained
    monkeypatch.setitem(sys.modules, "mirp", None)
    with pytest.raises(MissingExtraError, match=r"lesionwise\[radiomics\]"):
        measure_scan(TriageScan.of(result), extras=Extras(radiomics=True), labels=[next(iter(result.maps))])


def test_radiomics_are_measured_in_silence(explained, capfd):
    import logging

    pytest.importorskip("mirp")
    result, _ = explained
    before = (list(logging.getLogger().handlers), logging.getLogger().level, logging.root.manager.disable)
    label = next(iter(result.maps))
    row = measure_scan(TriageScan.of(result), extras=Extras(radiomics=True), labels=[label]).iloc[0]
    found = [name for name in row.index if name.startswith("radiomics_")]
    assert len(found) > 80
    assert {name.rsplit("_", 1)[1] for name in found} == {"FLAIR"}
    view = TriageScan.of(result).view(label)
    region = ndimage.binary_dilation(view.inside, structure=np.ones((5, 5, 5)))
    scored = 100 * (view.map[0] - view.map[0].mean()) / view.map[0].std()
    assert row["radiomics_stat_mean_FLAIR"] == pytest.approx(scored[region].mean(), rel=1e-3)
    # the absolute scale is gone: three times the map has the same features
    stronger = radiomic_features(replace(view, map=3 * view.map), channels=CHANNELS)
    assert stronger["radiomics_stat_mean_FLAIR"] == pytest.approx(row["radiomics_stat_mean_FLAIR"], rel=1e-3)
    assert "mirp" not in capfd.readouterr().out
    assert before == (list(logging.getLogger().handlers), logging.getLogger().level, logging.root.manager.disable)


def test_tables_of_features_are_kept_and_joined(explained, bright_model):
    """One kind more measures only that kind; another network asks again; all predicted lesions have a table of their own."""
    _, out = explained
    plain = measure_cohort(out)
    folder = out / "triage" / "features"
    stamp = (folder / "sub-small_plain.parquet").stat().st_mtime_ns
    more = measure_cohort(out, extras=Extras(disagreement=True), model=bright_model)
    assert (folder / "sub-small_plain.parquet").stat().st_mtime_ns == stamp
    pd.testing.assert_frame_equal(more[plain.columns], plain, check_dtype=False)
    assert more["mirrored_drop"].isna().all()  # the case was never a file: there is no image to ask about again
    asked = (folder / "sub-small_disagreement.parquet").stat().st_mtime_ns
    measure_cohort(out, extras=Extras(disagreement=True), model=bright_model)
    assert (folder / "sub-small_disagreement.parquet").stat().st_mtime_ns == asked
    wider = replace(bright_model, description=replace(bright_model.spec, window=(24, 24, 24)))
    measure_cohort(out, extras=Extras(disagreement=True), model=wider)
    assert (folder / "sub-small_disagreement.parquet").stat().st_mtime_ns > asked
    every = measure_cohort(out, every=True)
    assert set(plain["lesion"]) <= set(every["lesion"])
    assert "mean_in_FLAIR" in plain
    assert "mean_in_FLAIR" not in every
    assert (every["weight"] == 1).all()
    with pytest.raises(InputError, match="ask the network again"):
        measure_cohort(out, extras=Extras(disagreement=True))


@pytest.mark.slow
def test_the_command_explains_fits_and_applies(bright_model, tmp_path, monkeypatch, capsys):
    from lesionwise.cli import triage as command
    from lesionwise.cli.main import main
    from lesionwise.models import reference
    from lesionwise.phantom import write_phantoms

    monkeypatch.setattr(command, "load_model", lambda *args, **kwargs: bright_model)
    monkeypatch.setattr(reference, "load_model", lambda *args, **kwargs: bright_model)
    monkeypatch.setattr(reference, "_loaded", {})
    write_phantoms(tmp_path / "bids", subjects=6, seed=4, size="small", n_lesions=5)
    out = tmp_path / "out"
    code = main(["triage", "explain", str(tmp_path / "bids"), str(out), "--instances", "6", "--samples", "2"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "6 scans:" in said.out
    assert main(["triage", "fit", str(out), "-o", str(tmp_path / "m.json")]) == 2
    assert "Expected 45 patients or more to promise" in capsys.readouterr().err
    weak = ["--max-loss", "0.4", "--tail", "0.4"]
    code = main(["triage", "fit", str(out), "-o", str(tmp_path / "m.json"), *weak])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "Unseen patients" in said.out
    code = main(["triage", "apply", str(out), "--model", str(tmp_path / "m.json")])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "are probably false" in said.out
    assert len(list(out.glob("sub-*/anat/*_label-L_desc-triage_mask.nii.gz"))) == 6
    chosen = ["-o", str(tmp_path / "choice.json"), "--kind", "l1_logistic"]
    assert main(["triage", "choose", str(out), *chosen]) == 0
    assert "Taken: " in capsys.readouterr().out
    model = ["-o", str(tmp_path / "chosen.json"), "--choice", str(tmp_path / "choice.json")]
    assert main(["triage", "fit", str(out), *model, *weak]) == 0
    judged = ["-o", str(tmp_path / "judged"), "--model", str(tmp_path / "chosen.json")]
    assert main(["triage", "evaluate", str(out), *judged]) == 0
    assert len(pd.read_csv(tmp_path / "judged" / "scans.tsv", sep="\t")) == 6
    assert "total_missed" in json.loads((tmp_path / "judged" / "evaluation.json").read_text())["likely_misses"]
    (tmp_path / "no-choice.json").write_text("{}")
    assert main(["triage", "fit", str(out), *model[:-1], str(tmp_path / "no-choice.json")]) == 2
    capsys.readouterr()
    assert main(["triage", "apply", str(tmp_path), "--model", str(tmp_path / "m.json")]) == 2
    assert "found none" in capsys.readouterr().err
    assert main(["triage", "apply", str(out), "--model", str(tmp_path / "no.json")]) == 2


def test_a_saved_hand_made_model_is_the_same(tmp_path, explained):
    from lesionwise.triage.model import load_triage

    result, _ = explained
    model = by_volume(4.0)
    save_model(model, tmp_path / "m.json")
    pd.testing.assert_frame_equal(apply_triage(result, load_triage(tmp_path / "m.json")), apply_triage(result, model))


def test_margins_need_the_table_of_why(explained):
    """One sentence says what to run first."""
    _, out = explained
    with pytest.raises(InputError, match="run it first"):
        measure_cohort(out, extras=Extras(margins=True))
