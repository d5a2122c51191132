"""One grid for pictures: the turn to right-anterior-superior agrees with nibabel's, and values keep their place."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from lesionwise.geometry.box import Box
from lesionwise.io.derivative import read_scan
from lesionwise.report.profile import Neighbourhood, distance_profile
from lesionwise.report.scene import Turn, read_scene

SHAPE = (4, 5, 6)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_turn_agrees_with_nibabel(order, signs):
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * np.array(signs) * (1.0, 2.0, 3.0) + rng.normal(0, 0.05, (3, 3))
    affine[:3, 3] = (1, 2, 3)
    data = rng.standard_normal(SHAPE)
    turn = Turn.of(affine, SHAPE)
    wanted = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    assert np.array_equal(turn.array(data), wanted.get_fdata())
    assert np.allclose(affine @ turn.to_source, wanted.affine)
    box = Box((1, 0, 2), (3, 4, 5))
    mask = np.zeros(SHAPE, dtype=bool)
    mask[box.slices] = True
    turned = np.zeros(turn.array(mask).shape, dtype=bool)
    turned[turn.box(box).slices] = True
    assert np.array_equal(turn.array(mask), turned)


def test_a_map_turns_with_its_scan(make_out, tmp_path):
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])[[0, 2, 1, 3]]
    name = make_out(tmp_path, affine=affine, size=40, lesions=4)
    scene, scan = read_scene(tmp_path, name), read_scan(tmp_path, name)
    turned, plain = scene.saliency(2, "smoothgradmean"), scan.maps[2]["smoothgradmean"]
    for saliency in (turned, plain):
        peak = np.array(np.unravel_index(saliency.data[0].argmax(), saliency.box.shape))
        assert np.allclose(
            saliency.affine[:3, :3] @ peak + saliency.affine[:3, 3],
            (lambda p: plain.affine[:3, :3] @ p + plain.affine[:3, 3])(
                np.array(np.unravel_index(plain.data[0].argmax(), plain.box.shape))
            ),
        )
    assert scene.tilt_deg == 0


def test_profile_agrees_with_a_loop_over_voxels(out):
    scene = read_scene(*out)
    saliency = scene.saliency(1, "smoothgradmean")
    profile = distance_profile(Neighbourhood.of(scene, 1), saliency, step_mm=1.0)["FLAIR"]
    omega = scene.voxels(1)
    whole = saliency.on_grid(scene.shape)[0]
    low, high = omega.min(axis=0) - 17, omega.max(axis=0) + 18
    bins = {}
    for voxel in itertools.product(
        *(range(max(a, 0), min(b, n)) for a, b, n in zip(low, high, scene.shape, strict=True))
    ):
        if scene.labels[voxel] == 0:
            gap = np.maximum(np.abs(omega - voxel) - 0.5, 0)  # to the nearest face of a voxel of 1 mm
            distance = np.sqrt((gap**2).sum(axis=1).min())
            if distance <= 3:
                bins.setdefault(int(np.ceil(distance - 1e-6)), []).append(whole[voxel])
    for row in profile:
        if 0 <= row["from"] < 3:
            assert row["voxels"] == len(bins[int(row["to"])])
            assert row["mean"] == pytest.approx(np.mean(bins[int(row["to"])]), rel=1e-5)


def test_mean_of_the_inside_is_that_of_the_table(out):
    scene = read_scene(*out)
    for label in (1, 3, 7):
        profile = distance_profile(Neighbourhood.of(scene, label), scene.saliency(label, "smoothgradmean"), step_mm=1.0)
        row = scene.lesions.set_index("lesion").loc[label]
        for channel in ("FLAIR", "T1w"):
            inside = [each for each in profile[channel] if each["to"] <= 0]
            total = sum(each["voxels"] for each in inside)
            assert total == len(scene.voxels(label))
            mean = sum(each["mean"] * each["voxels"] for each in inside) / total
            assert mean == pytest.approx(row[f"mean_in_{channel}"], rel=1e-5)
