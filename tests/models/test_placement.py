"""What every way of laying a scan on a network's grid says of itself: voxel sizes, the scan in the network's units, and back."""

import numpy as np
import pytest
import torch

from lesionwise.geometry.box import Box
from lesionwise.geometry.volume import Case, Volume
from lesionwise.models.lstai import LstAi
from lesionwise.models.mindglide import MindGlide
from lesionwise.models.nnunet_grid import PreprocessingPlan
from lesionwise.models.preprocessing import Intensity, Steps
from lesionwise.segmenter import Segmenter, Spec

CHANNELS = ("FLAIR", "T1w")


def a_case(sizes_mm, shape=(20, 22, 14)):
    """A smooth head in a frame of background, turned and with unequal voxels."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1.3, 1.3, n) for n in shape], indexing="ij"))
    head = (grid**2).sum(axis=0) < 1
    image = (100 + 20 * np.sin(3 * grid[:2]) + rng.normal(size=(2, *shape))) * head
    affine = np.diag([-sizes_mm[0], sizes_mm[1], sizes_mm[2], 1.0])
    return Case(Volume(image.astype(np.float32), affine, CHANNELS), head)


def segmenter(case):
    return Segmenter(torch.nn.Identity(), Spec("s", CHANNELS, (8, 8, 8))).place(case)


def nnunet(case):
    configuration = {
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * 2,
        "use_mask_for_norm": [True, True],
        "resampling_fn_data_kwargs": {"order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities_kwargs": {"order": 1, "order_z": 0, "force_separate_z": None},
    }
    plans = {"image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2]}
    return PreprocessingPlan.of(plans, configuration, where="plans.json").place(case, CHANNELS)


def bundle(case):
    return Steps("RAS", (1.0, 1.0, 1.0), (Intensity("zscore", nonzero=True),)).place(case, CHANNELS)


def mindglide(case):
    return MindGlide.of(torch.nn.Identity()).place(case)


@pytest.mark.parametrize("sizes_mm", [(0.9, 0.9, 6.5), (0.5, 0.5, 0.5)])
@pytest.mark.parametrize("place_fn", [segmenter, nnunet, bundle, mindglide])
def test_the_networks_voxels_are_about_one_millimetre(place_fn, sizes_mm):
    case = a_case(sizes_mm)
    placement = place_fn(case)
    assert placement.scan_sizes_mm == pytest.approx(sizes_mm)
    assert placement.sizes_mm == pytest.approx((1.0, 1.0, 1.0), rel=0.15)  # whole voxels: the last may not fit
    assert placement.scan.shape[1:] == case.image.shape
    assert torch.equal(placement.scan_head, torch.from_numpy(case.head))


@pytest.mark.parametrize("place_fn", [segmenter, nnunet, bundle, mindglide])
def test_the_input_is_the_scan_brought_to_the_networks_grid(place_fn):
    """In the network's units, where nothing was clipped; a change of the scan is pushed by the same map."""
    placement = place_fn(a_case((0.9, 0.9, 2.5)))
    passes = placement.passes if placement.passes is not None else torch.ones_like(placement.input[0], dtype=torch.bool)
    brought = placement.to_network.forward(placement.scan.double())
    inner, nearest = passes & placement.head, 1e-3
    if place_fn is mindglide:  # it scores after resampling: where background is mixed in, the mean counts otherwise
        wholly = placement.to_network.forward(placement.scan_head.double())
        inner, nearest = inner & ((wholly - 1.0).abs() < 0.02), 0.2
    assert inner.any()
    assert (brought - placement.input[0].double()).abs()[inner].max() < nearest
    box = Box((8, 9, 5), (12, 13, 8))
    change = torch.randn((len(placement.scan), *box.shape), dtype=torch.float64)
    whole = torch.zeros(placement.scan.shape, dtype=torch.float64)
    whole[(slice(None), *box.slices)] = change
    moved, reached = placement.pushed(change, box)
    expected = placement.to_network.forward(whole) * passes
    assert torch.allclose(moved, expected[(slice(None), *reached.slices)], atol=1e-12)
    expected[(slice(None), *reached.slices)] = 0.0
    assert not expected.any()


def test_lst_ai_stays_on_its_own_millimetre_grid():
    case = a_case((1.0, 1.0, 1.0))
    placement = LstAi.of([torch.nn.Identity()], window=(16, 16, 16)).place(case)
    assert placement.sizes_mm == placement.scan_sizes_mm == (1.0, 1.0, 1.0)
    assert torch.allclose(placement.to_network.forward(placement.scan), placement.input[0])
