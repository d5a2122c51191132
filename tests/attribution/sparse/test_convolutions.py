"""Every way of a convolution without padding gives what PyTorch's own gives, and the fastest is found while working."""

import pytest
import torch
from torch import nn

from lesionwise.attribution.sparse import convolutions
from lesionwise.attribution.sparse.convolutions import Convolutions, has_ways

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


def test_a_build_without_packed_products_agrees(monkeypatch):
    weight, fine, coarse, stride, dilation = made("strided", 7, 4)
    fast = Convolutions(frozenset([weight.data_ptr()]), "matrix")
    packed = fast.gather(fine, weight, stride, dilation, 1), fast.scatter(coarse, weight, stride, dilation, 1)

    def missing(matrix):
        return matrix.contiguous(), False

    monkeypatch.setattr(convolutions, "_packed", missing)
    plain = Convolutions(frozenset([weight.data_ptr()]), "matrix")
    for a, b in zip(packed, (plain.gather(fine, weight, stride, dilation, 1),
                             plain.scatter(coarse, weight, stride, dilation, 1)), strict=True):  # fmt: skip
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_each_way_takes_its_turn_and_then_the_fastest_stays(monkeypatch):
    monkeypatch.setattr(convolutions, "_times", {})
    weight, fine, _, stride, dilation = made("strided", 6, 3)
    taken = []
    for name, way in (("_gather", "library"), ("_product", "matrix")):
        inner = getattr(convolutions, name)

        def spied(*args, inner=inner, way=way):
            taken.append(way)
            if way == "library":
                for _ in range(200):  # slower
                    torch.ones(1000).sum()
            return inner(*args)

        monkeypatch.setattr(convolutions, name, spied)
    chosen = Convolutions(frozenset([weight.data_ptr()]))
    for _ in range(16):
        chosen.gather(fine, weight, stride, dilation, 1)
    assert taken.count("library") == 7  # three turns of two ways, and one to lay out weights
    assert taken[-3:] == ["matrix"] * 3


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
