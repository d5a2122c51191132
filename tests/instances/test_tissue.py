import numpy as np
import pytest

from lesionwise.errors import InputError
from lesionwise.geometry.volume import Case, Volume
from lesionwise.instances import tissues, white_matter

SHAPE = (40, 40, 40)


def ball(centre, radius, shape=SHAPE):
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return ((grid - np.asarray(centre)) ** 2).sum(-1) <= radius**2


def head_with_three_tissues(noise):
    rng = np.random.default_rng(0)
    truth = np.zeros(SHAPE, dtype=int)
    for value, radius in ((1, 18), (2, 16), (3, 13)):  # CSF, grey, white
        truth[ball((20, 20, 20), radius)] = value
    truth[ball((20, 20, 20), 4)] = 1
    t1 = np.choose(truth, [0.0, 1.0, 2.0, 3.0]) + noise * rng.standard_normal(SHAPE)
    flair = rng.standard_normal(SHAPE)
    image = Volume(np.stack([flair, t1]).astype(np.float32), np.eye(4), ("FLAIR", "T1w"))
    return Case(image, truth > 0), truth


def test_white_matter_from_the_t1_mixture():
    case, truth = head_with_three_tissues(0.2)
    found = white_matter(case)
    assert found.source == "mixture"
    assert "T1w" in found.note
    dice = 2 * (found.mask & (truth == 3)).sum() / (found.mask.sum() + (truth == 3).sum())
    assert dice > 0.9


def test_given_white_matter_is_used_as_it_is():
    case, truth = head_with_three_tissues(0.2)
    given = Case(case.image, case.head, tissue={"white_matter": truth == 2})
    found = white_matter(given)
    assert found.source == "given"
    assert np.array_equal(found.mask, truth == 2)


def test_neither_mask_nor_t1_is_a_sentence():
    image = Volume(np.zeros((1, 4, 4, 4), dtype=np.float32), np.eye(4), ("FLAIR",))
    with pytest.raises(InputError, match="T1w"):
        white_matter(Case(image, np.ones((4, 4, 4), dtype=bool)))


def test_grey_matter_and_fluid_are_the_other_two_classes():
    case, truth = head_with_three_tissues(0.2)
    found = tissues(case)
    for mask, value in ((found.fluid, 1), (found.grey, 2), (found.white, 3)):
        dice = 2 * (mask & (truth == value)).sum() / (mask.sum() + (truth == value).sum())
        assert dice > 0.9
    assert not (found.fluid & found.grey).any()
    assert not (found.grey & found.white).any()


def test_bright_scalp_at_the_rim_is_not_white_matter():
    case, truth = head_with_three_tissues(0.2)
    data = case.image.data.copy()
    rim = ball((20, 20, 20), 19) & ~ball((20, 20, 20), 18)
    data[1][rim] = 8.0
    found = white_matter(Case(Volume(data, np.eye(4), ("FLAIR", "T1w")), (truth > 0) | rim))
    assert not (found.mask & rim).any()
    assert (found.mask & (truth == 3)).sum() > 0.95 * (truth == 3).sum()


def test_all_given_masks_are_used():
    case, truth = head_with_three_tissues(0.2)
    given = {"white_matter": truth == 3, "grey_matter": truth == 2, "csf": truth == 1}
    found = tissues(Case(case.image, case.head, tissue=given))
    assert found.source == "given"
    assert np.array_equal(found.grey, truth == 2)
