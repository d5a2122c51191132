"""Augmentation: what each step may and may not change."""

import numpy as np
import pytest
import torch

from lesionwise.train.augmentation import RandMissingChanneld, augmentation, paste_lesion, thick_slices
from lesionwise.train.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore")


def test_thick_slices_are_means_of_slabs_with_lines_between():
    ramp = torch.arange(8, dtype=torch.float32).reshape(1, 1, 1, 8)
    # slabs (0..3) and (4..7) with means 1.5 and 5.5 at centres 1.5 and 5.5: a straight line between, flat outside
    out = thick_slices(ramp, axis=2, thickness_vox=4)
    assert torch.allclose(out.ravel(), torch.tensor([1.5, 1.5, 2, 3, 4, 5, 5.5, 5.5]))


def test_thick_slices_act_along_their_axis_only():
    image = torch.randn(2, 12, 5, 6)
    out = thick_slices(image, axis=0, thickness_vox=3)
    assert torch.allclose(out[:, :, 2, 3], thick_slices(image[:, :, 2:3, 3:4], axis=0, thickness_vox=3)[:, :, 0, 0])
    assert not torch.allclose(out, image)


def test_a_pasted_lesion_lands_in_the_head_and_off_other_lesions():
    image = np.ones((2, 10, 10, 10), dtype=np.float32)
    image[:, :, :, 5:] = 0  # outside the head
    mask = np.zeros((10, 10, 10), dtype=bool)
    mask[4, 4, 4] = True
    donor = np.full((2, 4, 4, 4), 3.0, dtype=np.float32)
    donor_mask = np.ones((4, 4, 4), dtype=bool)
    before = image.copy()
    paste_lesion(image, mask, donor, donor_mask, (3, 3, 3))
    assert np.array_equal(image[:, :, :, 5:], before[:, :, :, 5:])
    assert image[0, 4, 4, 4] == 1  # the lesion that was there
    assert image[0, 5, 5, 4] == pytest.approx(3, abs=0.2)
    assert mask.sum() == 4 * 4 * 2
    assert not mask[:, :, 5:].any()


def test_a_missing_channel_is_zero_and_never_the_first():
    step = RandMissingChanneld("image", prob=1.0)
    step.set_random_state(0)
    out = step({"image": torch.ones(3, 2, 2, 2)})["image"]
    assert out[0].all()
    assert (out.flatten(1).sum(1) == 0).sum() == 1
    assert step({"image": torch.ones(1, 2, 2, 2)})["image"].all()


def test_wide_augmentation_keeps_the_background_and_changes_the_rest():
    recipe = Recipe.named("small-data", "unet", size="tiny", patch=(16, 16, 16), zoom=1e-6, rotation_deg=1e-6)
    image = torch.randn(2, 16, 16, 16)
    image[:, :, :, 12:] = 0
    changed = 0
    for seed in range(6):
        pipeline = augmentation(recipe)
        pipeline.set_random_state(seed)
        out = torch.as_tensor(pipeline({"image": image.clone(), "mask": torch.zeros(1, 16, 16, 16)})["image"])
        assert int((out[0] == 0).sum()) >= 16 * 16 * 3  # the affine step may blur one layer
        changed += not torch.equal(out, image)
    assert changed >= 5


def test_equal_seeds_give_equal_patches():
    recipe = Recipe.named("small-data", "unet", size="tiny", patch=(16, 16, 16))
    image, outs = torch.randn(2, 16, 16, 16), []
    for _ in range(2):
        pipeline = augmentation(recipe)
        pipeline.set_random_state(3)
        outs.append(torch.as_tensor(pipeline({"image": image.clone(), "mask": torch.zeros(1, 16, 16, 16)})["image"]))
    assert torch.equal(*outs)
