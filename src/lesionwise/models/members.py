"""Several networks asked as one: their logits side by side, and their mean probability as the answer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Members(nn.Module):
    """Networks side by side: (batch, channels, i, j, k) -> their logits one after another along the channel axis.

    A spec with `members` above 1 goes with it: windows fuse logits, and only then are probabilities averaged.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Float[Tensor, "batch outputs i j k"]:
        """Logits of every member."""
        return torch.cat([member(x) for member in self.members], dim=1)
