"""Patients are split, patches are a function of (seed, epoch, number)."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.bids import BidsScan
from lesionwise.io.nifti import write_image
from lesionwise.segmenter import Segmenter
from lesionwise.train import patches as patches_module
from lesionwise.train.patches import Patches, deal, prepare, scans_of, split
from lesionwise.train.recipe import Recipe
from lesionwise.train.run import network_of, spec_of

RECIPE = Recipe("unet", size="tiny", patch=(16, 16, 16), steps=4, batch=3)


@pytest.fixture(scope="module")
def cache(blobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    prepare(scans_of(blobs, RECIPE), Segmenter(network_of(RECIPE), spec_of(RECIPE)), folder)
    return folder, sorted(p.name for p in folder.iterdir())


def test_a_patient_is_never_on_both_sides(blobs):
    scans = scans_of(blobs, RECIPE)
    assert len(scans) == 7
    held = []
    for fold in range(5):
        train, val = split(scans, replace(RECIPE, folds=5, fold=fold))
        assert {s.name.subject for s in train}.isdisjoint(s.name.subject for s in val)
        assert len(train) + len(val) == 7
        held += [s.name.stem for s in val]
    assert sorted(held) == sorted(s.name.stem for s in scans)
    assert {s.name.stem for s in split(scans, RECIPE)[1]} == {s.name.stem for s in split(scans[::-1], RECIPE)[1]}


def test_patches_repeat_whatever_was_drawn_before(cache):
    folder, names = cache
    first = Patches(folder, [[n] for n in names], RECIPE, epoch=2)
    drawn = [first[n] for n in range(len(first))]
    again = Patches(folder, [[n] for n in names], RECIPE, epoch=2)
    assert len(first) == 12
    for n in (7, 0, 11):
        assert all(torch.equal(again[n][key], drawn[n][key]) for key in ("image", "mask"))
    other = Patches(folder, [[n] for n in names], RECIPE, epoch=3)
    assert not torch.equal(other[0]["image"], drawn[0]["image"])
    assert drawn[0]["image"].shape == (2, 16, 16, 16)
    assert set(drawn[0]["mask"].unique().tolist()) <= {0.0, 1.0}


def test_image_and_mask_stay_together_and_most_patches_hold_a_lesion(cache):
    folder, names = cache
    still = replace(RECIPE, shift=0.0, scale=0.0, steps=20)
    data = Patches(folder, [[n] for n in names], still, epoch=0)
    patches = [data[n] for n in range(40)]
    with_lesion = [p for p in patches if p["mask"].sum() > 20]
    assert len(with_lesion) > 25
    for p in with_lesion:
        inside = p["mask"] > 0
        assert p["image"][0][inside].mean() > p["image"][0][~inside].mean() + 1
        assert p["image"][1][inside].mean() < p["image"][1][~inside].mean() + 0.5


def test_a_scan_without_a_mask_or_a_channel_is_left_out_and_named_or_refused_if_strict(blobs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(blobs, copy)
    (copy / "derivatives/manual/sub-b1/anat/sub-b1_label-L_mask.nii.gz").unlink()
    (copy / "sub-b2/anat/sub-b2_T1w.nii.gz").unlink()
    left_out = {}
    scans = scans_of(copy, RECIPE, left_out=left_out)
    assert {"sub-b1", "sub-b2"}.isdisjoint(scan.name.stem for scan in scans)
    assert left_out["sub-b1"] == "no lesion mask"
    assert "T1w" in left_out["sub-b2"]
    with pytest.raises(InputError, match="sub-b"):
        scans_of(copy, RECIPE)
    with pytest.raises(InputError, match="at least two patients"):
        scans_of(blobs, RECIPE, participants=["b0"])


def test_a_damaged_scan_is_left_out_and_named_or_refused_if_strict(blobs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(blobs, copy)
    (copy / "sub-b3/anat/sub-b3_FLAIR.nii.gz").write_bytes(b"no image")
    model, left_out = Segmenter(network_of(RECIPE), spec_of(RECIPE)), {}
    scans = scans_of(copy, RECIPE)
    prepare(scans, model, tmp_path / "cache", left_out=left_out)
    assert list(left_out) == ["sub-b3"]
    with pytest.raises(InputError, match="sub-b3"):
        prepare(scans, model, tmp_path / "other")


def test_a_patient_weighs_the_same_however_often_they_were_scanned(cache, monkeypatch):
    folder, _ = cache
    patients = [["sub-b0"], ["sub-b5_ses-1", "sub-b5_ses-2"]]
    seen = Counter()
    opened = patches_module._Prepared.__init__

    def note(self, place):
        seen[place.name] += 1
        opened(self, place)

    monkeypatch.setattr(patches_module._Prepared, "__init__", note)
    data = Patches(folder, patients, replace(RECIPE, steps=100, batch=2), epoch=0)
    for n in range(len(data)):
        data[n]
    assert seen["sub-b0"] == pytest.approx(100, abs=25)


def test_patches_of_the_second_kind_come_in_their_share(cache, monkeypatch):
    folder, _ = cache
    recipe = replace(RECIPE, mix=0.3, steps=100, batch=2)
    data = Patches(folder, [["sub-b0"]], recipe, epoch=0, mixed=[["sub-b1"]])
    seen = Counter()
    drawn = patches_module._Prepared.drawn

    def note(place, patients, rng):
        seen[patients[0][0]] += 1
        return drawn(place, patients, rng)

    monkeypatch.setattr(patches_module._Prepared, "drawn", staticmethod(note))
    for n in range(len(data)):
        data[n]
    assert seen["sub-b1"] / len(data) == pytest.approx(0.3, abs=0.1)


def test_every_fold_holds_its_share_of_thick_slices(tmp_path):
    scans = []
    for n in range(10):
        path = tmp_path / f"sub-p{n}_FLAIR.nii.gz"
        write_image(
            path, np.random.default_rng(n).normal(size=(6, 6, 6)), np.diag([1.0, 1.0, 6.5 if n < 5 else 1.0, 1.0])
        )
        scans.append(BidsScan(ScanName(f"p{n}"), {"FLAIR": path}))
    folds = deal(scans, replace(RECIPE, folds=5))
    assert [sum(int(name[1:]) < 5 for name in fold) for fold in folds] == [1] * 5
