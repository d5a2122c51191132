"""Every way of a convolution without padding gives what PyTorch's own gives, and the way follows from the layer and the box."""

import pytest
import torch
from torch import nn

from lesionwise.attribution.sparse import convolutions
from lesionwise.attribution.sparse.convolutions import Convolutions, gathering_way, has_ways, scattering_way

GEOMETRIES = {
    "dense": ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "strided": ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    "uneven": ((2, 1, 4), (1, 3, 2), (1, 1, 1)),
    "dilated": ((3, 2, 3), (1, 2, 1), (2, 1, 3)),
    "sparse": ((1, 2, 1), (3, 3, 2), (1, 1, 1)),
}
WAYS = ("plain", "channels-last", "matrix")


def made(geometry, channels, outputs, *, batch=2):
    kernel, stride, dilation = GEOMETRIES[geometry]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(channels, outputs, *kernel, generator=generator)
    fine = torch.randn(batch, outputs, 14, 13, 15, generator=generator)
    coarse = torch.randn(batch, channels, 5, 4, 3, generator=generator)
    return weight, fine, coarse, list(stride), list(dilation)


@pytest.mark.parametrize("columns", [1 << 20, 1 << 9])  # all at once, or plane by plane and item by item
@pytest.mark.parametrize("outputs", [1, 2, 5])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_same(way, geometry, outputs, columns, monkeypatch):
    monkeypatch.setattr(convolutions, "_MOST_COLUMNS", columns)
    weight, fine, coarse, stride, dilation = made(geometry, 7, outputs)
    chosen = Convolutions(frozenset([weight.data_ptr()]), way)
    gathered = chosen.gather(fine, weight, stride, dilation, 1)
    expected = nn.functional.conv3d(fine.double(), weight.double(), None, stride, 0, dilation)
    assert gathered.shape == expected.shape
    assert (gathered - expected).abs().max() < 1e-5 * expected.abs().max()
    scattered = chosen.scatter(coarse, weight, stride, dilation, 1)
    expected = nn.functional.conv_transpose3d(coarse.double(), weight.double(), None, stride, 0, 0, 1, dilation)
    assert scattered.shape == expected.shape
    assert (scattered - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_way_follows_from_the_layer_and_the_box():
    narrow, wide, huge = torch.empty(64, 2, 3, 3, 3), torch.empty(64, 32, 3, 3, 3), torch.empty(512, 256, 3, 3, 3)
    assert [scattering_way(w, 8) for w in (narrow, wide, huge)] == ["matrix"] * 3
    assert [scattering_way(w, 8000) for w in (narrow, wide, huge)] == ["matrix", "channels-last", "matrix"]
    assert [gathering_way(w, 256) for w in (narrow, wide, huge)] == ["channels-last", "channels-last", "matrix"]
    assert [gathering_way(w, 8000) for w in (narrow, wide, huge)] == ["channels-last"] * 3


def test_without_the_private_functions_ordinary_products_are_taken(monkeypatch):
    def missing(*_):
        raise AttributeError("no such operation")

    convolutions.has_packed_products.cache_clear()
    monkeypatch.setattr(convolutions, "_onednn_product", missing)
    try:
        assert not convolutions.has_packed_products()
        weight, fine, _, stride, dilation = made("strided", 7, 4)
        found = Convolutions(frozenset([weight.data_ptr()]), "matrix").gather(fine, weight, stride, dilation, 1)
        assert (found - nn.functional.conv3d(fine, weight, None, stride)).abs().max() < 1e-4
    finally:
        convolutions.has_packed_products.cache_clear()


def test_weights_that_are_not_parameters_or_not_single_precision_have_one_way():
    weight, fine, coarse, stride, dilation = made("strided", 6, 3)
    chosen = Convolutions.of(nn.Conv3d(2, 3, 1), only="matrix")
    assert (
        chosen.gather(fine, weight, stride, dilation, 1) - nn.functional.conv3d(fine, weight, None, stride)
    ).abs().max() == 0
    assert not chosen.packed
    assert not has_ways(fine.double(), weight.double())
    grouped = torch.randn(6, 1, 3, 3, 3)
    assert not has_ways(fine, grouped, 3)
    assert chosen.scatter(coarse, grouped, stride, dilation, 3).shape[1] == 3


def test_nothing_has_a_shape_too():
    weight, fine, coarse, stride, dilation = made("strided", 6, 3)
    chosen = Convolutions(frozenset([weight.data_ptr()]))
    assert chosen.gather(fine[:0], weight, stride, dilation, 1).shape == (0, 6, 6, 6, 7)
    assert chosen.scatter(coarse[:0], weight, stride, dilation, 1).shape == (0, 3, 11, 9, 7)
