import numpy as np
import pandas as pd
import pytest
from known import Linear, scan_of
from scipy import ndimage

from lesionwise.experiments.fills import fill_finding, fill_rows, texture

INSIDE = np.zeros((14, 14, 14), dtype=bool)
INSIDE[5:9, 5:9, 5:9] = True
RING = ndimage.binary_dilation(INSIDE, iterations=3) & ~INSIDE


def field(rng):
    """Tissue: a smooth field of two agreeing channels."""
    first, second = ndimage.gaussian_filter(rng.standard_normal((2, *INSIDE.shape)), (0, 1, 1, 1))
    return np.stack([first, 0.5 * first + second])


@pytest.fixture(scope="module")
def finding():
    """Seven patients of six regions; `painted` is another field of the same kind, which nothing can tell."""
    rng, rows = np.random.default_rng(0), []
    for patient in range(7):
        for region in range(4):
            real = field(rng)
            flat = np.where(INSIDE, real[:, RING].mean(axis=1)[:, None, None, None], real)
            for fill, image in (("real", real), ("painted", field(rng)), ("flat", flat)):
                facts = {"subject": f"{patient}", "scan": f"{patient}", "lesion": region, "outcome": "TN", "fill": fill}
                found = texture(image, INSIDE, RING, channels=("FLAIR", "T1w"))
                rows.append(facts | {"part": "region"} | found)
                if fill == "painted":  # where its white matter would be told apart
                    found = texture(flat, INSIDE, RING, channels=("FLAIR", "T1w"))
                rows.append(facts | {"part": "white matter"} | found)
    return fill_finding(pd.DataFrame(rows), np.random.default_rng(1))


def test_tissue_of_the_same_kind_is_not_told_apart_and_flat_tissue_is(finding):
    found = finding.tables["fills"].set_index(["fill", "part"])["auc"]
    assert abs(found["painted", "region"] - 0.5) < 0.15
    assert found["flat", "region"] > 0.95
    assert found["painted", "white matter"] > 0.95
    assert "Painted tissue against real tissue (white matter alone): AUC" in finding.text
    assert "Flat tissue against real tissue: AUC" in finding.text
    assert "told apart, most by" in finding.text


def test_every_control_is_compared_as_it_is_and_filled():
    rows = fill_rows(scan_of(Linear((3.0, 0.0), bias=3.0), settings={"controls": 2}, lesions=(((8, 9, 12), 2),)))
    assert set(rows["fill"]) == {"real", "painted", "smooth", "flat"}
    assert rows.groupby("lesion")["fill"].nunique().eq(4).all()
    assert np.isfinite(rows.select_dtypes("number").to_numpy()).all()
    assert set(rows["part"]) == {"region", "white matter"}
    spread = rows[rows["part"] == "region"].set_index(["lesion", "fill"])["FLAIR_spread"].unstack()
    assert (spread["flat"] < spread["smooth"]).all()
    assert (spread["smooth"] < spread["real"]).all()


def test_without_controls_it_says_how_to_ask_for_them():
    rows = fill_rows(scan_of(Linear((3.0, 0.0), bias=3.0)))
    assert "--controls" in fill_finding(rows, np.random.default_rng(0)).text
