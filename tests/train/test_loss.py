"""The published loss against hand-computed values and other implementations."""

import numpy as np
import pytest
import torch
from monai.losses import FocalLoss

from lesionwise.metrics import normalised_dice
from lesionwise.train.loss import PublishedLoss, focal_loss, soft_ndsc_loss


def test_with_a_mask_it_is_one_minus_ndsc():
    rng = np.random.default_rng(0)
    for load in (0.02, 0.3, 0.0):
        p, g = rng.uniform(size=(6, 7, 8)) < 0.2, rng.uniform(size=(6, 7, 8)) < load
        loss = soft_ndsc_loss(torch.from_numpy(p)[None].double(), torch.from_numpy(g)[None].double())
        assert float(loss) == pytest.approx(1 - normalised_dice(p, g), abs=1e-4)


def test_soft_value_by_hand():
    """p = (0.5, 0.5, 0, 0), g = (1, 0, 0, 0): TP .5, FP .5, FN .5, k = .999 / (.001 * 3) = 333."""
    p, g = (
        torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64),
        torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64),
    )
    assert float(soft_ndsc_loss(p, g)) == pytest.approx(1 - 1 / (1 + 0.5 + 333 * 0.5), abs=1e-6)


def test_focal_equals_monais_and_cross_entropy_without_gamma():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 5, 6, 7, generator=generator)
    g = (torch.rand(2, 5, 6, 7, generator=generator) < 0.3).float()
    expected = FocalLoss(gamma=2.0, include_background=True)(z[:, None], g[:, None])
    assert torch.allclose(focal_loss(z, g), expected, atol=1e-6)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(z, g)
    assert torch.allclose(focal_loss(z, g, gamma=0.0), entropy, atol=1e-6)


def test_published_loss_weights_its_parts_and_has_a_gradient():
    logits = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g = (torch.rand(2, 4, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    loss = PublishedLoss(ndsc_weight=0.5, focal_weight=1.0, gamma=2.0)(logits, g)
    p = torch.softmax(logits, dim=1)[:, 1]
    parts = 0.5 * soft_ndsc_loss(p, g) + focal_loss(logits[:, 1] - logits[:, 0], g)
    assert torch.allclose(loss, parts, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(gradient.sum(dim=1), torch.zeros(2, 4, 4, 4), atol=1e-7)
    assert float(gradient.abs().max()) > 0
