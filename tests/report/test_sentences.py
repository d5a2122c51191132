"""Every sentence agrees with the map it speaks of: sign, size, place, recomputed from the NIfTI files on 200 lesions."""

import re

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lesionwise.geometry.box import Box
from lesionwise.io.derivative import ScanFiles, list_scans, write_saliency
from lesionwise.report.content import scene_content
from lesionwise.report.payload import PackingPlan, Store
from lesionwise.report.scene import read_scene
from lesionwise.saliency import SaliencyMap

SCANS, LESIONS = 10, 24
NUMBER = r"[+−]?\d[\d.\u202f]*(?:·10\^−?\d+)?"


def value(text):
    text = text.replace("\u202f", "").replace("−", "-").lstrip("+")
    mantissa, _, exponent = text.partition("·10^")
    return float(mantissa) * 10.0 ** float(exponent or 0)


@pytest.fixture(scope="module")
def scans(make_out, tmp_path_factory):
    """Scans whose maps are smooth noise with a bump somewhere: every sign, and peaks inside and out."""
    out = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(5)
    for number in range(SCANS):
        name = make_out(out, subject=f"{number:02d}", size=56, lesions=LESIONS, seed=number)
        files = ScanFiles(out, name)
        labels = np.asarray(nib.load(files.labels).dataobj).astype(int)
        for label, path in sorted((label, path) for (label, _), path in files.saliency_files().items()):
            voxels = np.argwhere(labels == label)
            box = Box.around(voxels, margin=int(rng.integers(6, 18)), shape=labels.shape)
            data = gaussian_filter(rng.standard_normal((2, *box.shape)), (0, 1, 1, 1)) * 0.01
            data[rng.integers(2)] += rng.choice((-0.05, 0.05)) * (labels[box.slices] == label)
            files.saliency(label, "smoothgradmean", stat="snr").unlink()
            facts = {"Method": "smoothgradmean", "Quantitative": True}
            channels, units = ("FLAIR", "T1w"), "log-odds per SD"
            write_saliency(path, SaliencyMap(data.astype(np.float32), box, np.eye(4), channels, units, None, facts))
    return out


def to_border(places, voxels):
    """Distance in mm from voxel centres (n, 3) to the nearest of the lesion's voxels, as blocks of 1 mm."""
    gaps = np.maximum(np.abs(places[:, None] - voxels[None]) - 0.5, 0)
    return np.sqrt((gaps**2).sum(axis=-1)).min(axis=1)


def recomputed(path, labels, label, channel):
    """Effect, effect of the rim, share against, strongest value and its distance, from the file."""
    image = nib.load(path)
    data = np.asarray(image.dataobj, dtype=float)[..., channel]
    start = np.round(image.affine[:3, 3]).astype(int)
    voxels, free = np.argwhere(labels == label), np.argwhere(labels == 0)
    near = free[((free >= voxels.min(axis=0) - 4) & (free <= voxels.max(axis=0) + 4)).all(axis=1)]
    rim = near[to_border(near, voxels) <= 3] - start
    rim = rim[((rim >= 0) & (rim < data.shape)).all(axis=1)]  # the map is 0 beyond its file
    inside = data[tuple((voxels - start).T)]
    top = np.array(np.unravel_index(np.abs(data).argmax(), data.shape))
    against = float((np.sign(inside) != np.sign(inside.sum())).mean())
    far = 0.0 if labels[tuple(top + start)] == label else float(to_border((top + start)[None], voxels)[0])
    return float(inside.sum()), float(data[tuple(rim.T)].sum()), against, float(data[tuple(top)]), far


def test_sentences_agree_with_the_maps(scans, monkeypatch):
    monkeypatch.setattr(
        PackingPlan, "of", lambda scene: PackingPlan(8.0, "int8", ())
    )  # words alone: no map is packed for a page
    spoken = 0
    for name in list_scans(scans):
        scene = read_scene(scans, name)
        files, labels = scene.files, np.asarray(nib.load(scene.files.labels).dataobj).astype(int)
        for lesion in scene_content(scene, Store({}))["lesions"]:
            if not lesion["maps"]:
                continue
            text = " ".join(lesion["sentences"])
            for number, channel in enumerate(("FLAIR", "T1w")):
                path = files.saliency(lesion["label"], "smoothgradmean")
                effect, rim, against, strongest, far = recomputed(path, labels, lesion["label"], number)
                (told,) = re.findall(rf"{channel} by ({NUMBER})", text)
                assert value(told) == pytest.approx(effect, abs=0.021)  # the table's error is 0.02
                assert (value(told) > 0) == (effect > 0) or abs(effect) < 0.021
                (told,) = re.findall(rf"(?:^|; ){channel} ({NUMBER})", text.split("around it: ")[1])
                assert value(told) == pytest.approx(rim, abs=0.031)
                (way, side, where) = re.findall(
                    rf"{channel} pushes (?:one way|both ways,) (throughout it|in {NUMBER} % of it)(?: as its sum does)?; "
                    r"its strongest value speaks (for|against) "
                    rf"the lesion and lies (inside|far outside|{NUMBER} mm outside)",
                    text,
                )[0]
                share = 0.0 if way == "throughout it" else 1 - value(re.search(NUMBER, way).group()) / 100
                assert share == pytest.approx(against, abs=0.006)
                assert (f"{channel} pushes both ways" in text) == (against > 0.4)
                assert (side == "for") == (strongest > 0)
                if where == "far outside":
                    assert far > 14
                else:
                    told = 0.0 if where == "inside" else value(where.split(" ")[0])
                    assert told == pytest.approx(far, abs=0.051 if far < 10 else 0.51)  # two digits
            spoken += 1
    assert spoken >= 200
