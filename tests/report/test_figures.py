"""The print panel: outlines on voxel edges, peak plane, formats, sentences for what cannot be drawn."""

import numpy as np
import pytest
from matplotlib.image import imread

from lesionwise.charts import palette
from lesionwise.errors import InputError
from lesionwise.io.derivative import read_scan
from lesionwise.report.figures import lesion_figure, outline
from lesionwise.report.limits import colour_limit


def test_outline_is_the_border_between_in_and_out():
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 2:4] = True
    lines = outline(mask)
    assert len(lines) == 8, "a 2 x 2 block has eight outer edges"
    assert np.allclose(np.linalg.norm(lines[:, 0] - lines[:, 1], axis=1), 1)
    assert lines[..., 0].min() == 0.5
    assert lines[..., 0].max() == 2.5
    assert lines[..., 1].min() == 1.5
    assert lines[..., 1].max() == 3.5


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_formats_and_repeatable_bytes(out, tmp_path, suffix):
    scan = read_scan(*out)
    first = lesion_figure(scan, 2, tmp_path / f"a{suffix}").read_bytes()
    assert first[:4] in (b"\x89PNG", b"%PDF", b"<?xm")
    if suffix != ".svg":
        assert lesion_figure(scan, 2, tmp_path / f"b{suffix}").read_bytes() == first


def test_the_chosen_lesions_colour_is_in_the_picture(out, tmp_path):
    pixels = np.round(imread(lesion_figure(read_scan(*out), 3, tmp_path / "a.png"))[..., :3] * 255)
    for outcome, present in (("FP", True), ("US", False)):
        near = np.abs(pixels - palette.rgb(palette.OUTCOMES[outcome].colour)).max(axis=-1) < 3
        assert (near.sum() > 100) == present


def test_sentences_for_what_cannot_be_drawn(out, tmp_path):
    scan = read_scan(*out)
    with pytest.raises(InputError, match="found 99"):
        lesion_figure(scan, 99, tmp_path / "a.png")
    with pytest.raises(InputError, match="has no map"):
        lesion_figure(scan, 12, tmp_path / "a.png")
    with pytest.raises(InputError, match=r"\.gif"):
        lesion_figure(scan, 1, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_colour_limit():
    assert colour_limit([0.0101, 0.02345, 0.9]) == 0.023
    assert colour_limit([]) == 1.0
    assert colour_limit([0.0, float("nan"), 2.0]) == 2.0


def test_zero_is_clear_and_the_limit_opaque():
    rgba = palette.signed_rgba(np.array([0.0, 1.0, -1.0, 9.0]), limit=1.0)
    assert rgba[0, 3] == 0
    assert np.allclose(rgba[1:, 3], 1)
    assert np.allclose(rgba[1], rgba[3])
    assert rgba[1, 0] > rgba[1, 2]
    assert rgba[2, 2] > rgba[2, 0]


# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
DICHROMACIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(linear):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.clip(xyz / [0.9505, 1.0, 1.089], 0, None))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", DICHROMACIES)
def test_outcomes_stay_apart_for_colour_blind_readers(kind):
    colours = {key: style.colour for key, style in palette.OUTCOMES.items() if key != "n/a"}
    linear = {key: (np.array(palette.rgb(colour)) / 255) ** 2.2 for key, colour in colours.items()}
    seen = {key: lab(np.clip(np.array(DICHROMACIES[kind]) @ value, 0, 1)) for key, value in linear.items()}
    for first in seen:
        for second in seen:
            if first < second:
                assert np.linalg.norm(seen[first] - seen[second]) > 14, (first, second)
