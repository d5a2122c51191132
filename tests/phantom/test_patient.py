"""Patients with a known truth."""

import numpy as np
import pytest

from lesionwise.errors import InputError
from lesionwise.geometry.head import find_head
from lesionwise.metrics import dice
from lesionwise.phantom import CHANNELS, Phantom, synthesise


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return synthesise(0, size="small", n_lesions=15, lesion_contrast=0.6, t1w_contrast=-0.25)


def test_equal_seeds_give_equal_arrays_and_others_do_not(phantom: Phantom) -> None:
    again = synthesise(0, size="small", n_lesions=15, lesion_contrast=0.6, t1w_contrast=-0.25)
    np.testing.assert_array_equal(phantom.image.data, again.image.data)
    np.testing.assert_array_equal(phantom.reference, again.reference)
    other = synthesise(1, size="small", n_lesions=15)
    assert not np.array_equal(phantom.image.data, other.image.data)


def test_arrays_share_one_grid_and_agree_with_one_another(phantom: Phantom) -> None:
    shape = phantom.image.shape
    assert phantom.image.channels == CHANNELS
    for mask in (phantom.reference, phantom.head, phantom.tissue, phantom.non_lesion, phantom.lesion_index):
        assert mask.shape == shape
    assert phantom.image.voxel_volume_mm3 == pytest.approx(1)
    assert np.isfinite(phantom.image.data).all()
    assert not (phantom.reference & ~phantom.head).any()
    assert ((phantom.lesion_index > 0) == phantom.reference).all()
    assert ((phantom.tissue > 0) == phantom.head).all()
    assert not (phantom.non_lesion[phantom.reference] > 0).any()
    assert (phantom.image.channel("FLAIR")[~phantom.head] == 0).all()
    assert phantom.ventricle_mm[phantom.tissue == 1].min() < 0


def test_lesions_are_bright_on_flair_and_dark_on_t1w(phantom: Phantom) -> None:
    white = (phantom.tissue == 3) & ~phantom.reference & phantom.head
    flair, t1w = phantom.image.channel("FLAIR"), phantom.image.channel("T1w")
    assert flair[phantom.reference].mean() > 1.2 * flair[white].mean()
    assert t1w[phantom.reference].mean() < 0.95 * t1w[white].mean()


@pytest.mark.parametrize(("visible", "hidden"), [("FLAIR", "T1w"), ("T1w", "FLAIR")])
def test_a_lesion_on_one_channel_changes_nothing_on_the_other(visible: str, hidden: str) -> None:
    options = {"size": "small", "lesion_contrast": 0.6, "t1w_contrast": -0.3, "n_lesions": 10}
    shown = synthesise(7, visible_on=(visible,), **options)
    none = synthesise(7, visible_on=(), **options)
    np.testing.assert_array_equal(shown.image.channel(hidden), none.image.channel(hidden))
    change = np.abs(shown.image.channel(visible) - none.image.channel(visible))
    assert change[shown.reference].mean() > 3 * change[shown.head & ~shown.reference].mean()
    assert shown.reference.any()
    np.testing.assert_array_equal(shown.reference, none.reference)


def test_chosen_contrast_is_found_again() -> None:
    options = {"size": "small", "n_lesions": 10, "mimics": False, "t1w_contrast": 0.0}
    strong, weak = (synthesise(9, lesion_contrast=c, **options) for c in (0.8, 0.4))
    inner = strong.reference
    none = synthesise(9, lesion_contrast=0.0, visible_on=(), **options).image.channel("FLAIR")
    ratio = (strong.image.channel("FLAIR") - none)[inner].sum() / (weak.image.channel("FLAIR") - none)[inner].sum()
    assert ratio == pytest.approx(2.0, rel=0.2)


def test_a_healthy_brain_has_no_lesions() -> None:
    healthy = synthesise(3, size="small", n_lesions=0)
    assert not healthy.reference.any()
    assert healthy.plans == ()
    assert healthy.non_lesion.any()
    assert synthesise(3, size="small", n_lesions=0, visit=3).plans == ()


def test_without_mimics_white_matter_is_flatter() -> None:
    with_them, without = (synthesise(5, size="small", n_lesions=0, mimics=m) for m in (True, False))
    white = (with_them.tissue == 3) & (with_them.non_lesion == 0)
    a, b = (p.image.channel("FLAIR")[white] for p in (with_them, without))
    assert np.abs(a - b).max() > 0
    assert b.std() <= a.std() * 1.05


def test_the_head_can_be_found_from_the_images(phantom: Phantom) -> None:
    assert dice(find_head(phantom.image), phantom.head) > 0.85


def test_the_case_carries_reference_and_tissue(phantom: Phantom) -> None:
    case = phantom.case(subject="x1")
    assert case.name.subject == "x1"
    assert case.reference is not None
    np.testing.assert_array_equal(case.tissue["white_matter"], phantom.tissue == 3)


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(InputError, match="FLAIR and T1w"):
        synthesise(0, size="small", visible_on=("PD",))
    with pytest.raises(InputError, match="number of lesions"):
        synthesise(0, size="small", n_lesions=-1)


@pytest.mark.slow
def test_a_whole_brain_has_the_size_and_contrast_of_one() -> None:
    whole = synthesise(2, n_lesions=0, mimics=False)
    assert whole.image.shape == (182, 218, 182)
    assert 0.8e6 < whole.head.sum() < 2.3e6
    flair, t1w = whole.image.channel("FLAIR"), whole.image.channel("T1w")
    csf, grey, white = (whole.tissue == n for n in (1, 2, 3))
    assert np.median(flair[csf]) < np.median(flair[white])
    assert np.median(t1w[csf]) < np.median(t1w[grey]) < np.median(t1w[white])
    share = [m.sum() / whole.head.sum() for m in (csf, grey, white)]
    assert 0.02 < share[0] < 0.35
    assert 0.25 < share[1] < 0.65
    assert 0.25 < share[2] < 0.65
