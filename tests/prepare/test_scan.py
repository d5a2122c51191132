"""One scan from scanner files to ready: what moves, what stays, what is left alone."""

from dataclasses import replace

import numpy as np
import pytest
from heads import channel, motion, moved, small_head, small_patient

from lesionwise.errors import GridMismatchError, InputError
from lesionwise.geometry.volume import Volume
from lesionwise.metrics import dice
from lesionwise.prepare import scan as module
from lesionwise.prepare.extraction import EXTRACTIONS
from lesionwise.prepare.resampling import mask_onto_grid
from lesionwise.prepare.scan import Preparation, prepare_scan, reference_on

TRUE = motion((6.0, -4.0, 5.0), (4.0, -6.0, 8.0), np.array([0.0, -14.0, 17.0]))


def by_heart(volume: Volume) -> np.ndarray:
    """Brain extraction that knows the patient, wherever the head was moved."""
    head, brain = small_head()
    back = np.linalg.inv(TRUE) if volume.channels == ("T1w",) else np.eye(4)
    return mask_onto_grid(brain, head.affine, back, shape=volume.shape, affine=volume.affine)


@pytest.fixture(scope="module")
def scanned():
    head, _ = small_head()
    return {"FLAIR": channel(head, "FLAIR", every=3), "T1w": moved(channel(head, "T1w", every=2, first=1), TRUE)}


@pytest.fixture(scope="module")
def prepared(scanned):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXTRACTIONS, "deepbet", by_heart)
        return prepare_scan(scanned, Preparation())


def test_everything_lies_on_the_flair_grid_and_flair_was_not_interpolated(prepared, scanned):
    flair = scanned["FLAIR"]
    assert prepared.image.shape == flair.shape
    assert np.array_equal(prepared.image.affine, flair.affine)
    assert np.array_equal(prepared.after["FLAIR"], flair.data[0])
    # the correction is a smooth factor: neighbours keep their ratio
    inside = prepared.brain[1:] & prepared.brain[:-1] & (flair.data[0, 1:] > 100) & (flair.data[0, :-1] > 100)
    before = (flair.data[0, 1:] / np.maximum(flair.data[0, :-1], 1))[inside]
    out = prepared.image.channel("FLAIR")
    after = (out[1:] / np.maximum(out[:-1], 1e-3))[inside]
    np.testing.assert_allclose(after, before, rtol=0.02)


def test_t1w_lies_where_flair_lies(prepared):
    head, _ = small_head()
    truth = channel(head, "T1w", every=3).data[0]
    inside = prepared.brain & (truth > 0)
    aligned = np.corrcoef(prepared.after["T1w"][inside], truth[inside])[0, 1]
    by_headers = np.corrcoef(prepared.before["T1w"][inside], truth[inside])[0, 1]
    assert aligned > 0.9
    assert aligned > by_headers + 0.2


def test_nothing_is_left_outside_the_brain(prepared, scanned):
    assert not prepared.image.data[:, ~prepared.brain].any()
    assert dice(prepared.brain, by_heart(scanned["FLAIR"])) > 0.95


def test_what_was_done_is_told(prepared):
    told = " ".join(prepared.steps)
    assert "FLAIR keeps its own grid" in told
    assert "T1w was registered rigidly to FLAIR" in told
    assert "extracted by deepbet" in told
    assert prepared.quality.measures["brain_agreement"] > 0.95


def test_a_reference_drawn_on_t1w_follows_it(prepared, scanned):
    head, brain = small_head()
    t1w = scanned["T1w"]
    drawn = by_heart(t1w)
    on_flair = reference_on(drawn, t1w.affine, scanned, prepared)
    assert dice(on_flair, by_heart(scanned["FLAIR"])) > 0.93
    same = by_heart(scanned["FLAIR"])
    assert reference_on(same, scanned["FLAIR"].affine, scanned, prepared) is same
    with pytest.raises(GridMismatchError, match="grid of FLAIR or T1w"):
        reference_on(brain, head.affine, scanned, prepared)


def test_a_scan_that_is_ready_is_left_as_it_is():
    patient = small_patient()
    channels = {
        name: Volume(patient.image.data[n : n + 1], patient.image.affine, (name,))
        for n, name in enumerate(patient.image.channels)
    }
    ready = prepare_scan(channels, Preparation())
    assert ready.left_alone
    assert ready.motions == {}
    assert np.array_equal(ready.image.data, patient.image.data)


def test_a_channel_at_rest_on_the_same_grid_is_not_interpolated(monkeypatch):
    head, _brain = small_head()
    channels = {name: channel(head, name, every=3) for name in head.channels}
    at_rest = module.Rigid(motion((0.05, 0.0, 0.0), (0.0, 0.0, 0.0), np.zeros(3)), 0.4, 0.4, 0.1)
    monkeypatch.setattr(module, "register", lambda *args, **kwargs: at_rest)
    found = prepare_scan(channels, Preparation(extraction="none"))
    assert np.array_equal(found.after["T1w"], channels["T1w"].data[0])
    assert found.motions == {}
    assert "was not interpolated" in " ".join(found.steps)


def test_flair_alone_needs_no_alignment():
    head, _ = small_head()
    found = prepare_scan({"FLAIR": channel(head, "FLAIR", every=3)}, Preparation(extraction="none"))
    assert found.image.channels == ("FLAIR",)
    assert "moved_mm" not in found.quality.measures


def test_a_channel_to_go_onto_must_be_there(scanned):
    with pytest.raises(InputError, match="--onto to be one of the channels FLAIR, T1w, found T2w"):
        prepare_scan(scanned, replace(Preparation(), onto="T2w"))
    with pytest.raises(InputError, match="deepbet, hd-bet, synthstrip, none"):
        Preparation(extraction="bet")
