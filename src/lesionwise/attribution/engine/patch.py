"""A map that is put together from parts."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lesionwise.attribution.engine.moments import placed
from lesionwise.geometry.box import Box


@dataclass(eq=False)
class Patch:
    """Values on a box of a grid that grows as parts are laid down."""

    box: Box | None = None
    data: Tensor | None = None

    def reserve(self, box: Box, like: Tensor) -> Tensor:
        """The values, on a box that holds `box` too; new places are 0."""
        if self.box is None or self.data is None:
            self.box, self.data = box, like.new_zeros((*like.shape[:-3], *box.shape))
        union = self.box.union(box)
        if union != self.box:
            self.box, self.data = union, placed(self.data, self.box, union)
        return self.data[(..., *box.relative_to(self.box).slices)]

    def add(self, box: Box, values: Float[Tensor, "*lead i j k"]) -> None:
        """Adds values on a box; may keep `values` itself."""
        if self.data is None:
            self.box, self.data = box, values
        else:
            self.reserve(box, values).add_(values)

    def keep_extreme(self, box: Box, stack: Float[Tensor, "count channels i j k"]) -> None:
        """Per place keeps the signed value of largest magnitude, of those there and those in the stack."""
        own = self.reserve(box, stack[0])
        if len(stack) == 1:
            best = stack[0]
        else:
            high, low = stack.amax(dim=0), stack.amin(dim=0)
            best = torch.where(high >= -low, high, low)
        own.copy_(torch.where(best.abs() > own.abs(), best, own))
