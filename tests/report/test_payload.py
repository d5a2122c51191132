"""What a page carries: arrays that come back, and a plan that keeps to its budget."""

import gzip

import numpy as np
import pytest

from lesionwise.report.anatomy import display_window
from lesionwise.report.payload import Blob, Frame, PackingPlan, image_blob, map_blobs
from lesionwise.report.scene import read_scene


@pytest.fixture(scope="module")
def scene(out):
    return read_scene(*out)


def decoded(blob):
    return np.frombuffer(gzip.decompress(blob.data), dtype=blob.dtype).reshape(blob.shape, order="F")


def window(scene, channel):
    return display_window(scene.images[channel], scene.voxel_sizes_mm)


def test_blobs_come_back_and_repeat():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert np.array_equal(decoded(Blob.of(array)), array)
    assert Blob.of(array).data == Blob.of(array.copy()).data


def test_images_come_back_within_half_a_level(scene):
    frame = Frame.of(scene)
    blob, scale = image_blob(scene.images["FLAIR"], frame, window=window(scene, "FLAIR"))
    shown = scene.images["FLAIR"][frame.box.slices]
    back = decoded(blob) * scale["scale"] + scale["offset"]
    within = (shown >= scale["offset"]) & (shown <= scale["offset"] + 255 * scale["scale"])
    assert np.abs(back - shown)[within].max() <= 0.501 * scale["scale"]
    assert within.mean() > 0.99


@pytest.mark.parametrize(("dtype", "error"), [("int16", 2e-5), ("int8", 8.1e-3)])
def test_maps_come_back(scene, dtype, error):
    frame = Frame.of(scene)
    saliency = scene.saliency(2, "smoothgradmean")
    meta, blobs = map_blobs(scene, frame, saliency, 2, margin_mm=10, dtype=dtype)
    coded = decoded(blobs["values"]).astype(float)
    for number, top in enumerate(meta["scales"]):
        unit = coded[..., number] / (32767 if dtype == "int16" else 127)
        back = (unit if dtype == "int16" else np.sign(unit) * unit**2) * top
        start = np.asarray(meta["start"]) + frame.box.start - saliency.box.start
        there = saliency.data[number][tuple(slice(a, a + n) for a, n in zip(start, back.shape, strict=True))]
        kept = back != 0
        assert np.abs(back - there)[kept].max() <= error * top
        assert meta["outside"][number] == pytest.approx(
            1 - np.abs(there[kept]).sum() / np.abs(saliency.data[number]).sum(), abs=0.02
        )
    snr = decoded(blobs["snr"])
    assert snr.max() <= 15


def test_a_smaller_budget_gives_a_smaller_plan(scene):
    plans = [PackingPlan.of(scene, budget_bytes=budget) for budget in (9_000_000, 1_200_000, 400_000, 60_000)]
    order = [(plan.margin_mm, plan.dtype == "int16", len(plan.labels)) for plan in plans]
    assert order == sorted(order, reverse=True)
    assert len(set(order)) == 4
    assert len(plans[0].labels) == 11
    assert len(plans[-1].labels) < 11


def test_images_too_large_for_a_page_are_halved_by_block_means(scene):
    frame = Frame.of(scene)
    blob, scale = image_blob(scene.images["T1w"], frame, window=window(scene, "T1w"), step=2)
    shown = scene.images["T1w"][frame.box.slices]
    assert blob.shape == tuple(-(-n // 2) for n in shown.shape)
    back = decoded(blob) * scale["scale"] + scale["offset"]
    wanted = np.clip(shown[4:6, 10:12, 20:22].mean(), scale["offset"], scale["offset"] + 255 * scale["scale"])
    assert abs(back[2, 5, 10] - wanted) <= 0.501 * scale["scale"]
