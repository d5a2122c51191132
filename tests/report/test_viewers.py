"""Other viewers: the NiiVue document opens in NiiVue with the map on the lesion; recipes name files that exist."""

import json
import shlex

import numpy as np
import pytest

from lesionwise.errors import InputError
from lesionwise.io.derivative import read_saliency, read_scan
from lesionwise.report.limits import colour_limit, table_tops
from lesionwise.report.viewer import niivue
from lesionwise.report.viewers import fsleyes_command, itksnap_command, layers, slicer_script, write_viewers


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


def test_commands_name_files_that_exist_and_quote_them(oblique):
    shown = layers(read_scan(*oblique), 2, limit=0.02)
    for command in (fsleyes_command(shown), itksnap_command(shown)):
        files = [word for word in shlex.split(command) if word.endswith(".nii.gz")]
        assert len(files) == 4
        assert str(shown.saliency) in files
    assert str(shown.place_mm[0])[:4] in fsleyes_command(shown)
    compile(slicer_script(shown), "slicer", "exec")
    assert json.dumps(str(shown.saliency))[1:-1] in slicer_script(shown).replace('\\"', '"')


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
    limit = colour_limit(table_tops(scan.lesions, scan.channels))
    saliency = read_saliency(scan.files.saliency(2, "smoothgradmean"))
    for volume, top in zip(found[2:], (saliency.data[0].max(), -saliency.data[0].min()), strict=True):
        assert np.allclose(volume["affine"], saliency.affine, atol=1e-4)
        assert volume["dims"][1:4] == list(saliency.box.shape)
        assert volume["high"] == pytest.approx(limit)
        assert volume["top"] == pytest.approx(float(top), rel=1e-4)
