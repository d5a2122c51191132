"""Two models with one fingerprint give one map: whatever could give another one changes it, and nothing else does."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_network import tiny_unet
from torch import nn

from lesionwise.fingerprint import fingerprint
from lesionwise.models.nnunet import FusedViews
from lesionwise.models.preprocessing import Intensity, Steps
from lesionwise.segmenter import AbstractModuleSegmenter, Segmenter, Spec

SPEC = Spec("tiny", ("FLAIR", "T1w"), (16, 16, 16))


def of(network, spec=SPEC):
    return Segmenter(network, spec).fingerprint


def test_the_same_model_twice_has_one_fingerprint():
    one = of(tiny_unet())
    assert one == of(tiny_unet())
    assert one == of(tiny_unet().train()), "the mode is not the model's: it is asked in evaluation mode"
    assert one == of(tiny_unet(), replace(SPEC, card={"summary": "words"}))
    assert len(one) == 16


def test_what_weights_do_not_show_counts():
    class Head(nn.Module):
        def __init__(self, **settings):
            super().__init__()
            self.conv = nn.Conv3d(2, 2, 1)
            nn.init.zeros_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)
            self.act, self.settings = settings.pop("act", nn.ReLU()), settings

        def forward(self, x):
            return self.act(self.conv(x))

    class Other(Head):
        def forward(self, x):
            return self.act(self.conv(x)) * 2

    Other.__qualname__ = Head.__qualname__
    hooked, masked = Head(), Head()
    hooked.conv.register_forward_hook(lambda module, args, output: output * 3)
    masked.register_buffer("gain", torch.ones(1), persistent=False)
    networks = [
        Head(), Head(act=nn.LeakyReLU(0.1)), Head(act=nn.LeakyReLU(0.2)), Head(act=nn.InstanceNorm3d(2, eps=1e-3)),
        Head(scale=2.0), Head(order=(1, 0)), Other(), hooked, masked,
    ]  # fmt: skip
    assert len({of(network) for network in networks}) == len(networks)
    masked.gain.fill_(2)
    assert of(masked) not in {of(network) for network in networks[:-1]}


def test_mirroring_and_folds_count():
    def views(folds, mirrored=()):
        return FusedViews([tiny_unet() for _ in range(folds)], mirrored)

    found = [of(views(1)), of(views(1, (0,))), of(views(1, (1,))), of(views(1, (0, 1))), of(views(2))]
    assert len(set(found)) == 5


def test_preprocessing_and_a_place_of_ones_own_count():
    @dataclass(frozen=True, eq=False)
    class Prepared(AbstractModuleSegmenter):
        steps: Steps

        def place(self, case):
            return self.steps.place(case, self.spec.channels)

    @dataclass(frozen=True, eq=False)
    class Cut(Prepared):
        def place(self, case):
            return self.steps.place(case, self.spec.channels[::-1])

    Cut.__qualname__ = Prepared.__qualname__
    network, steps = tiny_unet(), Steps(after=(Intensity("zscore"),))
    found = [
        Prepared(network, SPEC, steps), Prepared(network, SPEC, replace(steps, orientation="RAS")),
        Prepared(network, SPEC, Steps(after=(Intensity("zscore", nonzero=True),))), Cut(network, SPEC, steps),
    ]  # fmt: skip
    assert len({model.fingerprint for model in found}) == 4
    assert Prepared(tiny_unet(), SPEC, Steps(after=(Intensity("zscore"),))).fingerprint == found[0].fingerprint


@pytest.mark.parametrize(
    "changes",
    [{"threshold": 0.4}, {"overlap": 0.5}, {"normalisation": "none"}, {"lesion_class": 0}, {"blending": "constant"}],
)
def test_every_field_of_the_spec_counts(changes):
    assert of(tiny_unet(), replace(SPEC, **changes)) != of(tiny_unet())


def test_functions_count_by_their_code_and_what_they_hold():
    def scaled(by):
        return lambda image, head: image / by

    def shifted(by):
        return lambda image, head: image - by

    found = {fingerprint(f) for f in (scaled(2.0), scaled(3.0), shifted(2.0))}
    assert len(found) == 3
    assert fingerprint(scaled(2.0)) in found


def test_torchscript_counts_by_its_code(tmp_path):
    class Plain(nn.Module):
        def forward(self, x):
            return torch.cat([-x[:, :1], x[:, :1]], 1)

    class Doubled(nn.Module):
        def forward(self, x):
            return torch.cat([-x[:, :1], 2 * x[:, :1]], 1)

    assert of(torch.jit.script(Plain())) == of(torch.jit.script(Plain()))
    assert of(torch.jit.script(Plain())) != of(torch.jit.script(Doubled()))


def test_values_are_told_apart():
    values = [1, 1.5, "1", None, (1,), {"a": 1}, np.ones(2), np.ones(2, np.float32), np.zeros(2), torch.ones(2), {1}]
    assert len({fingerprint(value) for value in values}) == len(values)
