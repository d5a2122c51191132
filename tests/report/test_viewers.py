"""Other viewers: the NiiVue document opens in NiiVue with the map on the lesion; recipes name files that exist."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lesionwise.errors import InputError
from lesionwise.io.derivative import read_saliency, read_scan
from lesionwise.io.nifti import read_array
from lesionwise.report.limits import colour_limit
from lesionwise.report.viewer import niivue
from lesionwise.report.viewers import fsleyes_command, itksnap_command, layers, slicer_script, with_maps, write_viewers


@pytest.fixture(scope="module")
def oblique(make_out, tmp_path_factory):
    """A scan that is tilted, flipped and not isotropic."""
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.0, 1.2, 0.9])
    affine[:3, 3] = (30, -40, 12)
    out = tmp_path_factory.mktemp("oblique")
    return out, make_out(out, affine=affine, size=48, lesions=6)


def test_commands_name_files_that_exist_by_full_path(oblique, tmp_path, monkeypatch):
    monkeypatch.chdir(oblique[0].parent)
    scan = read_scan(Path(oblique[0].name), oblique[1])
    shown = with_maps(layers(scan, 2, limit=0.02), tmp_path / "a b", "it's")
    for command, count in ((fsleyes_command(shown), 5), (itksnap_command(shown), 5)):
        files = [Path(word) for word in shlex.split(command) if word.endswith(".nii.gz")]
        assert len(files) == count
        assert all(path.is_absolute() and path.is_file() for path in files)
    assert str(shown.place_mm[0])[:4] in fsleyes_command(shown)
    text = slicer_script(shown)
    compile(text, "slicer", "exec")
    facts = json.loads(ast.literal_eval(re.search(r"facts = json.loads\((.*)\)", text).group(1)))
    assert facts["maps"] == {channel: str(path) for channel, path in shown.maps.items()}


def test_each_channel_has_a_map_of_three_dimensions_in_its_place(oblique, tmp_path):
    scan = read_scan(*oblique)
    shown = with_maps(layers(scan, 2, limit=0.02), tmp_path, "one")
    saliency = read_saliency(scan.files.saliency(2, "smoothgradmean"))
    for channel, path in shown.maps.items():
        values, affine = read_array(path)
        assert np.array_equal(values, saliency.channel(channel))
        assert np.allclose(affine, saliency.affine, atol=1e-4)


def test_the_first_image_and_map_are_the_ones_seen(oblique):
    """FSLeyes draws later overlays over earlier ones."""
    words = shlex.split(fsleyes_command(layers(read_scan(*oblique), 2, limit=0.02)))
    names = [words[at + 1] for at, word in enumerate(words) if word == "--name"]
    hidden = [names[sum(w == "--name" for w in words[:at]) - 1] for at, w in enumerate(words) if w == "--disabled"]
    assert names == ["T1w", "FLAIR", "map T1w", "map FLAIR", "lesions"]
    assert hidden == ["T1w", "map T1w"]
    assert words.count("-0.02") == 0
    assert words[words.index("red-yellow") :].count("0.02") == 2, "both signs share one limit"


def test_fsleyes_draws_the_map_on_its_lesion(oblique, tmp_path):
    """The printed line, drawn off screen by FSLeyes itself where it is installed."""
    if shutil.which("fsleyes") is None:
        pytest.skip("FSLeyes is not installed (pip install fsleyes; it needs wxPython)")
    if not os.environ.get("DISPLAY"):
        pytest.skip("FSLeyes draws only on a display, even off screen (xvfb-run pytest ...)")
    words = shlex.split(fsleyes_command(layers(read_scan(*oblique), 2, limit=0.02)))
    picture = tmp_path / "seen.png"
    options = ["--size", "600", "300", "--hideCursor", "--outfile", str(picture)]
    subprocess.run(["fsleyes", "render", *options, *words[1:]], check=True, timeout=300, capture_output=True)
    pixels = np.asarray(Image.open(picture).convert("RGB"), dtype=int)
    red = (pixels[..., 0] > 120) & (pixels[..., 2] < 60)
    blue = (pixels[..., 2] > 120) & (pixels[..., 0] < 60)
    assert red.sum() > 20
    assert blue.sum() > 20


def test_sentences(oblique):
    scan = read_scan(*oblique)
    with pytest.raises(InputError, match="has no map"):
        layers(scan, 6, limit=1)
    with pytest.raises(InputError, match="has no map"):
        layers(scan, 77, limit=1)


@pytest.mark.browser
def test_the_document_opens_in_niivue_with_the_map_on_its_lesion(oblique, chromium, tmp_path):
    scan = read_scan(*oblique)
    document = json.loads(write_viewers(scan, 2, tmp_path)["niivue"].read_text())
    page = chromium.new_page()
    page.set_content("<canvas id='gl' width='300' height='300'></canvas>")
    page.add_script_tag(content=niivue().code)
    found = page.evaluate(
        """async (content) => {
          const nv = new niivue.Niivue({ logLevel: 'error' });
          await nv.attachToCanvas(document.getElementById('gl'));
          await nv.loadDocument(await niivue.NVDocument.loadFromJSON(content));
          return nv.volumes.map((volume) => ({ affine: volume.hdr.affine, dims: Array.from(volume.hdr.dims), name: volume.name,
            low: volume.cal_min, high: volume.cal_max, top: volume.global_max }));
        }""",
        document,
    )
    page.close()
    assert [volume["name"] for volume in found] == [
        "FLAIR.nii.gz",
        "T1w.nii.gz",
        "FLAIR map, for.nii.gz",
        "FLAIR map, against, sign reversed.nii.gz",
    ]
    # A viewer shows the file as it is: what is full colour on the page, of the map times its voxels, divided by them.
    voxels = np.bincount(scan.labels.ravel())
    columns = [f"{end}_{channel}" for end in ("peak", "trough") for channel in scan.channels]
    tops = scan.lesions[columns].abs().max(axis=1) * voxels[scan.lesions["lesion"]]
    limit = colour_limit(tops.dropna().to_list()) / voxels[2]
    saliency = read_saliency(scan.files.saliency(2, "smoothgradmean"))
    for volume, top in zip(found[2:], (saliency.data[0].max(), -saliency.data[0].min()), strict=True):
        assert np.allclose(volume["affine"], saliency.affine, atol=1e-4)
        assert volume["dims"][1:4] == list(saliency.box.shape)
        assert volume["high"] == pytest.approx(limit)
        assert volume["top"] == pytest.approx(float(top), rel=1e-4)
