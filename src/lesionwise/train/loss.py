"""The published loss: 0.5 times the soft normalised Dice loss plus 1.0 times the focal loss."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

NDSC_LOAD = 0.001
SMOOTH = 1e-5


def soft_ndsc_loss(
    probability: Float[Tensor, " batch *grid"], reference: Float[Tensor, " batch *grid"], *, load: float = NDSC_LOAD
) -> Float[Tensor, ""]:
    """1 - nDSC with probabilities in place of a mask, mean over the batch, lower is better (METHOD 6, Raina2023).

    nDSC = 2 TP / (2 TP + FN + k FP), k = (1 - r) h / (r (V - h)), k = 1 for a patch without lesion voxels.
    """
    p, g = probability.flatten(1), reference.flatten(1)
    tp, fp, fn = (p * g).sum(1), (p * (1 - g)).sum(1), ((1 - p) * g).sum(1)
    h, voxels = g.sum(1), g.shape[1]
    k = torch.where((h > 0) & (h < voxels), (1 - load) * h / (load * (voxels - h).clamp(min=1)), torch.ones_like(h))
    score = (2 * tp + SMOOTH) / (2 * tp + fn + k * fp + SMOOTH)
    return (1 - score).mean()


def focal_loss(
    log_odds: Float[Tensor, " batch *grid"], reference: Float[Tensor, " batch *grid"], *, gamma: float = 2.0
) -> Float[Tensor, ""]:
    """-(1 - p_t)^gamma log p_t, mean over voxels, where p_t is the probability of the true class (Lin 2017)."""
    sign = 2 * reference - 1
    log_p = nn.functional.logsigmoid(sign * log_odds)
    return (-((1 - log_p.exp()) ** gamma) * log_p).mean()


class PublishedLoss(nn.Module):
    """`ndsc_weight` soft nDSC loss + `focal_weight` focal loss, on two-class logits."""

    def __init__(self, *, ndsc_weight: float, focal_weight: float, gamma: float) -> None:
        super().__init__()
        self.ndsc_weight, self.focal_weight, self.gamma = ndsc_weight, focal_weight, gamma

    def forward(
        self, logits: Float[Tensor, "batch 2 i j k"], reference: Float[Tensor, "batch i j k"]
    ) -> Float[Tensor, ""]:
        """The loss of a batch, computed in single precision whatever the network's."""
        log_odds = (logits[:, 1] - logits[:, 0]).float()
        ndsc = soft_ndsc_loss(torch.sigmoid(log_odds), reference)
        return self.ndsc_weight * ndsc + self.focal_weight * focal_loss(log_odds, reference, gamma=self.gamma)


class DiceCrossEntropyLoss(nn.Module):
    """Soft Dice over the whole batch plus cross-entropy in which lesion voxels weigh 1.5, on two-class logits.

    Over the batch, not per patch, so that a patch without lesions does not count as a total failure.
    """

    SMOOTH = 10.0

    def forward(
        self, logits: Float[Tensor, "batch 2 i j k"], reference: Float[Tensor, "batch i j k"]
    ) -> Float[Tensor, ""]:
        """The loss of a batch, computed in single precision whatever the network's."""
        log_odds = (logits[:, 1] - logits[:, 0]).float()
        p = torch.sigmoid(log_odds)
        dice = (2 * (p * reference).sum() + self.SMOOTH) / (p.sum() + reference.sum() + self.SMOOTH)
        weight = 1 + 0.5 * reference
        entropy = nn.functional.binary_cross_entropy_with_logits(log_odds, reference, weight=weight, reduction="sum")
        return 1 - dice + entropy / weight.sum()
