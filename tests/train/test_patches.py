"""Patients are split, patches are a function of (seed, epoch, number)."""

import shutil
from dataclasses import replace

import pytest
import torch

from lesionwise.errors import InputError
from lesionwise.segmenter import Segmenter
from lesionwise.train.patches import Patches, prepare, scans_of, split
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
    first = Patches(folder, names, RECIPE, epoch=2)
    drawn = [first[n] for n in range(len(first))]
    again = Patches(folder, names, RECIPE, epoch=2)
    assert len(first) == 12
    for n in (7, 0, 11):
        assert all(torch.equal(again[n][key], drawn[n][key]) for key in ("image", "mask"))
    other = Patches(folder, names, RECIPE, epoch=3)
    assert not torch.equal(other[0]["image"], drawn[0]["image"])
    assert drawn[0]["image"].shape == (2, 16, 16, 16)
    assert set(drawn[0]["mask"].unique().tolist()) <= {0.0, 1.0}


def test_image_and_mask_stay_together_and_most_patches_hold_a_lesion(cache):
    folder, names = cache
    still = replace(RECIPE, shift=0.0, scale=0.0, steps=20)
    data = Patches(folder, names, still, epoch=0)
    patches = [data[n] for n in range(40)]
    with_lesion = [p for p in patches if p["mask"].sum() > 20]
    assert len(with_lesion) > 25
    for p in with_lesion:
        inside = p["mask"] > 0
        assert p["image"][0][inside].mean() > p["image"][0][~inside].mean() + 1
        assert p["image"][1][inside].mean() < p["image"][1][~inside].mean() + 0.5


def test_what_is_missing_is_said_in_one_sentence(blobs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(blobs, copy)
    (copy / "derivatives/manual/sub-b1/anat/sub-b1_label-L_mask.nii.gz").unlink()
    with pytest.raises(InputError, match="found none for sub-b1"):
        scans_of(copy, RECIPE)
    (copy / "sub-b2/anat/sub-b2_T1w.nii.gz").unlink()
    with pytest.raises(InputError, match="sub-b2"):
        scans_of(copy, RECIPE)
    with pytest.raises(InputError, match="at least two patients"):
        scans_of(blobs, RECIPE, participants=["b0"])
    with pytest.raises(InputError, match="at most as many folds"):
        split(scans_of(blobs, RECIPE), replace(RECIPE, folds=9))
    for wrong, message in [
        ({"network": "vnet"}, "found vnet"),
        ({"patch": (16, 16, 15)}, "multiples of 4"),
        ({"fold": 1}, "Expected --fold"),
        ({"size": "huge"}, "found huge"),
        ({"steps": 0}, "at least 1"),
    ]:
        with pytest.raises(InputError, match=message):
            replace(RECIPE, **wrong)
