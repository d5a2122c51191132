"""A model asked in another way: each of its networks alone (members of an ensemble, views of an average), or in the mirror."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lesionwise.models.members import Members
from lesionwise.segmenter import MeanOfViews, full_resolution


class Alone(nn.Module):
    """One member of an ensemble in the place of all `count`: whatever reads the ensemble's logits reads this one's."""

    def __init__(self, member: nn.Module, count: int) -> None:
        super().__init__()
        self.member, self.count = member, count

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Float[Tensor, "batch outputs i j k"]:
        """The member's logits, `count` times along the channel axis."""
        return torch.cat([self.member(x)] * self.count, dim=1)


class OneView(nn.Module):
    """One fold in one mirror of a model that averages them."""

    def __init__(self, network: MeanOfViews, view: int) -> None:
        super().__init__()
        self.network, self.view = network, view

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Float[Tensor, "batch outputs i j k"]:
        """Logits of the view alone."""
        logits: Tensor = self.network.one(x, self.view)
        return logits


class Mirrored(nn.Module):
    """A network asked in the mirror: its input turned along one spatial axis, and its logits turned back."""

    def __init__(self, network: nn.Module, axis: int) -> None:
        super().__init__()
        self.network, self.axis = network, axis + 2

    def forward(self, x: Float[Tensor, "batch channels i j k"]) -> Float[Tensor, "batch outputs i j k"]:
        """Logits on the grid of x."""
        return full_resolution(self.network(x.flip(self.axis)), x.shape[2:]).flip(self.axis)


def networks_alone(network: nn.Module, *, most_views: int | None = None) -> list[nn.Module]:
    """Members or views, each as a network that takes the model's place; none for a single network.

    Of more than `most_views` views as many are taken, evenly spread over them.
    """
    if isinstance(network, Members):
        return [Alone(member, len(network.members)).eval() for member in network.members]
    if not isinstance(network, MeanOfViews) or network.count < 2:
        return []
    count = min(network.count, most_views or network.count)
    views = np.unique(np.linspace(0, network.count - 1, count).round().astype(int))
    return [OneView(network, int(view)).eval() for view in views]
