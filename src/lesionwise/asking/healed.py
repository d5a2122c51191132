"""A scan without its lesions: healthy tissue in place of each, painted once however often it is asked for."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor

from lesionwise.geometry.box import Box, triple
from lesionwise.inpainting import inpaint
from lesionwise.types import MaskArray, Millimetres

_AROUND_MM = 30.0
"""What is looked at around a lesion to paint it: beyond the reach of `inpaint`."""


@dataclass(frozen=True, eq=False)
class Healed:
    """The network's input, in which lesions are painted over, one connected part after another, as they are asked for.

    `image` (channels, i, j, k) is the scan as it is, `painted` is changed in place; `parts` numbers the connected parts of
    all lesions and one voxel around them. A part's texture depends on `seed` and its number, not on what was asked before.
    """

    image: Float[np.ndarray, "channels i j k"]
    painted: Float[np.ndarray, "channels i j k"]
    healthy: MaskArray
    parts: Int[np.ndarray, "i j k"]
    boxes: tuple[Box, ...]
    sizes_mm: Millimetres
    seed: int
    done: set[int]

    @classmethod
    def of(cls, x: Tensor, lesions: MaskArray, healthy: MaskArray, *, sizes_mm: Millimetres, seed: int) -> "Healed":
        """Of an input (channels, i, j, k); masks and `sizes_mm` are those of its grid."""
        parts, _ = ndimage.label(ndimage.binary_dilation(lesions), structure=np.ones((3, 3, 3)))
        boxes = [Box(triple(s.start for s in at), triple(s.stop for s in at)) for at in ndimage.find_objects(parts)]
        image = x.numpy().astype(np.float32)
        return cls(image, image.copy(), healthy, parts, tuple(boxes), sizes_mm, seed, set())

    def within(self, box: Box) -> Tensor:
        """The input in a box without any lesion that meets it."""
        for number, own in enumerate(self.boxes, start=1):
            if number not in self.done and not own.intersection(box).is_empty:
                self._paint(number, own)
        return torch.from_numpy(self.painted[(slice(None), *box.slices)].copy())

    def _paint(self, number: int, own: Box) -> None:
        margin = [int(np.ceil(_AROUND_MM / size)) for size in self.sizes_mm]
        near = Box(triple(np.subtract(own.start, margin).clip(min=0)), triple(np.add(own.stop, margin)))
        near = near.intersection(Box.whole(triple(self.parts.shape)))
        inside, part = (slice(None), *near.slices), self.parts[near.slices] == number
        rng = np.random.default_rng([self.seed, number])
        filled = inpaint(
            self.image[inside], part, voxel_sizes_mm=self.sizes_mm, healthy=self.healthy[near.slices], rng=rng
        )
        self.painted[inside][:, part] = filled[:, part]
        self.done.add(number)
