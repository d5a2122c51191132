"""What is done to a patch before the network sees it: the published augmentation, and a wider one for few patients."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from scipy import ndimage
from torch import Tensor

from lesionwise.train.recipe import Recipe

KEYS = ("image", "mask")


def augmentation(recipe: Recipe) -> Compose:
    """The recipe's augmentation of {"image": (channels, i, j, k) z-scored with background 0, "mask": (1, i, j, k)}."""
    return wide(recipe) if recipe.augmentation == "wide" else published(recipe)


def published(recipe: Recipe) -> Compose:
    """Flips, quarter turns, affine +-15 degrees and 10 %, intensity shift and scale 0.1 (METHOD section 6)."""
    return Compose(
        [
            *(RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in range(3)),
            *([RandRotate90d(KEYS, prob=0.5, max_k=3)] if recipe.patch[0] == recipe.patch[1] else []),
            _affine(recipe, prob=0.5),
            RandScaleIntensityd("image", factors=recipe.scale, prob=0.5),
            RandShiftIntensityd("image", offsets=recipe.shift, prob=0.5),
        ]
    )


def wide(recipe: Recipe) -> Compose:
    """Another scanner for every patch: contrast, sharpness, slice thickness, noise, bias and missing channels.

    Left and right are exchanged often, the other axes rarely, because a brain is not upside down. The background
    stays 0.
    """
    return Compose(
        [
            RandFlipd(KEYS, prob=0.5, spatial_axis=0),
            RandFlipd(KEYS, prob=0.1, spatial_axis=1),
            RandFlipd(KEYS, prob=0.1, spatial_axis=2),
            _affine(recipe, prob=0.35),
            InsideHead(
                [
                    RandThickSlicesd("image", prob=0.25),
                    RandGaussianSmoothd("image", sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), sigma_z=(0.3, 1.0), prob=0.15),
                    RandAdjustContrastd("image", gamma=(0.7, 1.5), prob=0.3),
                    RandBiasFieldd("image", degree=2, coeff_range=(-0.15, 0.15), prob=0.15),
                    RandScaleIntensityd("image", factors=0.2, channel_wise=True, prob=0.5),
                    RandShiftIntensityd("image", offsets=0.2, channel_wise=True, prob=0.5),
                    RandGaussianNoised("image", std=0.15, prob=0.3),
                ]
            ),
            RandMissingChanneld("image", prob=recipe.channel_dropout),
        ]
    )


class InsideHead(Compose):
    """Transforms of intensities, after which voxels that were exactly 0 (outside the head) are 0 again."""

    def __call__(self, input_: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """The patch with its background kept."""
        outside = input_["image"] == 0
        out = super().__call__(input_, *args, **kwargs)
        return {**out, "image": torch.where(outside, torch.zeros_like(out["image"]), out["image"])}


class RandThickSlicesd(RandomizableTransform, MapTransform):
    """Averages slabs of 3 to 8 slices along one axis (mostly the third) and interpolates between them linearly.

    What a 2-D acquisition with thick slices looks like after it was resampled to the network's grid.
    """

    def __init__(self, keys: Any, *, prob: float) -> None:
        RandomizableTransform.__init__(self, prob)
        MapTransform.__init__(self, keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Every key alike."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return out
        axis = int(self.R.choice(3, p=[0.1, 0.1, 0.8]))
        thickness, offset = int(self.R.randint(3, 9)), int(self.R.randint(0, 8))
        for key in self.keys:
            out[key] = thick_slices(out[key], axis=axis, thickness_vox=thickness, offset_vox=offset)
        return out


def thick_slices(
    image: Float[Tensor, "channels i j k"], *, axis: int, thickness_vox: int, offset_vox: int = 0
) -> Float[Tensor, "channels i j k"]:
    """Means over slabs of `thickness_vox` slices along a spatial axis, linearly interpolated between slab centres."""
    length = image.shape[axis + 1]
    slab = (torch.arange(length) + offset_vox) // thickness_vox
    slab = slab - slab[0]
    count = torch.bincount(slab).to(image.dtype)
    moved = image.movedim(axis + 1, 0)
    sums = moved.new_zeros((len(count), *moved.shape[1:])).index_add_(0, slab, moved)
    means = sums / count.reshape(-1, *[1] * (moved.ndim - 1))
    centres = torch.zeros(len(count)).index_add_(0, slab, torch.arange(length, dtype=torch.float32)) / count
    position = torch.from_numpy(np.interp(np.arange(length), centres.numpy(), np.arange(len(count)))).to(image.dtype)
    low = position.floor().long().clamp(max=len(count) - 1)
    high = (low + 1).clamp(max=len(count) - 1)
    share = (position - low).reshape(-1, *[1] * (moved.ndim - 1))
    return (means[low] * (1 - share) + means[high] * share).movedim(0, axis + 1).contiguous()


class RandMissingChanneld(RandomizableTransform, MapTransform):
    """Sets one channel after the first to 0, as a scan without it is given to the network."""

    def __init__(self, keys: Any, *, prob: float) -> None:
        RandomizableTransform.__init__(self, prob)
        MapTransform.__init__(self, keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The patch, sometimes without a channel; images of one channel stay whole."""
        out = dict(data)
        self.randomize(None)
        for key in self.keys:
            channels = len(out[key])
            if self._do_transform and channels > 1:
                image = out[key].clone()
                image[1 + int(self.R.randint(channels - 1))] = 0
                out[key] = image
        return out


def paste_lesion(
    image: Float[np.ndarray, "channels i j k"],
    mask: Bool[np.ndarray, "i j k"],
    donor_image: Float[np.ndarray, "channels a b c"],
    donor_mask: Bool[np.ndarray, "a b c"],
    corner: Any,
) -> None:
    """Puts the donor block's lesion voxels into image and mask at `corner`, in place, with a soft edge.

    Only inside the head (voxels that are not 0), and only where the image has no lesion yet. Both are z-scored, so
    that their grey values compare.
    """
    block = tuple(slice(int(c), int(c) + n) for c, n in zip(corner, donor_mask.shape, strict=True))
    free = (image[0][block] != 0) & ~mask[block]
    weight = np.clip(ndimage.gaussian_filter(donor_mask.astype(np.float32), 0.6) * 1.5, 0, 1) * free
    image[(slice(None), *block)] += weight * (donor_image - image[(slice(None), *block)])
    mask[block] |= donor_mask & free


def _affine(recipe: Recipe, *, prob: float) -> RandAffined:
    return RandAffined(
        KEYS,
        prob=prob,
        rotate_range=[np.deg2rad(recipe.rotation_deg)] * 3,
        scale_range=[recipe.zoom] * 3,
        mode=("bilinear", "nearest"),
        padding_mode="zeros",
    )
