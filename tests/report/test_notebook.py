"""A result in Jupyter: escaped, short, and the widget holds the image and the map."""

from types import SimpleNamespace

import numpy as np
import pytest

from lesionwise.errors import InputError
from lesionwise.geometry.volume import Case, ScanName, Volume
from lesionwise.io.derivative import read_scan
from lesionwise.report.notebook import result_html, view


@pytest.fixture
def result(out):
    scan = read_scan(*out)
    image = Volume(np.zeros((2, *scan.labels.shape), dtype=np.float32) + 1, scan.affine, ("FLAIR", "T1w"))
    case = Case(image, np.ones(scan.labels.shape, dtype=bool), name=ScanName("<b>x</b>"))
    maps = {label: methods["smoothgradmean"] for label, methods in scan.maps.items()}
    return SimpleNamespace(
        lesions=scan.lesions,
        case=case,
        maps=maps,
        counts={"TP": 7, "<i>": 1},
        explained=SimpleNamespace(labels=scan.labels),
    )


def test_the_summary_is_escaped_and_says_what_each_lesions_brightness_does(result):
    html = result_html(result)
    assert "<b>x" not in html
    assert "<i>" not in html
    assert "sub-&lt;b&gt;x" in html
    assert "has the strongest effect: one SD brighter throughout it moves its log-odds" in html
    assert html.count("data:image/png;base64,") == 1
    assert html.count(" ± 0.02") >= 20
    assert html.count("not explained") == 1
    assert "not a medical device" in html


def test_the_widget_holds_image_and_map(result):
    pytest.importorskip("ipyniivue")
    widget = view(result, 3, channel="T1w")
    names = [volume.name for volume in widget.volumes]
    assert names == ["T1w.nii.gz", "map of T1w.nii.gz"]
    assert widget.volumes[1].cal_max > 0
    assert widget.volumes[1].colormap_negative == "winter"


def test_sentences(result):
    with pytest.raises(InputError, match="explained lesions"):
        view(result, 12)
    with pytest.raises(InputError, match="channel"):
        view(result, 3, channel="T2w")
