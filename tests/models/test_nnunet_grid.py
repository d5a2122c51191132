"""nnU-Net's preprocessing and way back, equal to its own code; the adjoint is the derivative."""

import numpy as np
import pytest
import torch

from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.volume import Case, Volume
from lesionwise.models.nnunet_grid import PreprocessingPlan
from lesionwise.models.resampling import spline_resize
from lesionwise.windows import probability_on_scan

plans_handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape  # noqa: E402
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor  # noqa: E402

from lesionwise.segmenter import Spec  # noqa: E402

DATASET = {"labels": {"background": 0, "lesion": 1}, "channel_names": {"0": "FLAIR", "1": "T1"}}
INTENSITIES = {"mean": 60.0, "std": 30.0, "percentile_00_5": 20.0, "percentile_99_5": 110.0}
RESAMPLING = "resample_data_or_seg_to_shape"


def plans_for(
    spacing, *, transpose=(0, 1, 2), schemes=("ZScoreNormalization",) * 2, masked=(True, True), torch_resampling=False
):
    configuration = {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [16] * len(spacing),
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": list(masked),
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "architecture": {"network_class_name": "x", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    if torch_resampling:
        for what in ("data", "seg", "probabilities"):
            configuration[f"resampling_fn_{what}"] = "resample_torch_fornnunet"
            configuration[f"resampling_fn_{what}_kwargs"] = {"is_seg": what == "seg", "force_separate_z": None}
    return {
        "dataset_name": "Dataset001_Test",
        "image_reader_writer": "NibabelIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [int(a) for a in np.argsort(transpose)],
        "foreground_intensity_properties_per_channel": {"0": INTENSITIES, "1": INTENSITIES},
        "label_manager": "LabelManager",
        "configurations": {"c": configuration},
    }


def a_case(sizes_mm=(1.0, 1.0, 1.0), shape=(22, 25, 19)):
    rng = np.random.default_rng(0)
    data = rng.gamma(4.0, 15.0, size=(2, *shape)).astype(np.float32)
    head = np.zeros(shape, dtype=bool)
    head[3:-2, 4:-3, 2:-4] = True
    head[3:6, 4:7, 2:5] = False
    data[:, ~head] = 0
    return Case(Volume(data, np.diag([*sizes_mm, 1.0]), ("FLAIR", "T1w")), head)


CASES = [
    ((1.0, 1.0, 1.0), {}, (1.0, 1.0, 1.0)),
    ((1.0, 0.8, 1.3), {"transpose": (1, 2, 0)}, (1.2, 0.9, 1.1)),
    ((1.1, 1.1, 1.1), {"masked": (False, True)}, (1.1, 0.7, 1.6)),
    ((3.6, 1.0, 1.0), {"schemes": ("CTNormalization", "RescaleTo01Normalization")}, (1.0, 1.0, 4.4)),
    ((4.0, 0.9, 0.9), {"schemes": ("NoNormalization", "RGBTo01Normalization")}, (1.0, 1.0, 4.0)),
    ((1.2, 0.9), {"transpose": (2, 0, 1)}, (1.0, 1.1, 1.2)),
    ((1.3, 0.8, 1.1), {"torch_resampling": True}, (1.0, 1.0, 1.2)),
    ((1.1, 0.9, 1.0), {"torch_resampling": True}, (1.0, 1.0, 4.4)),
]


@pytest.mark.parametrize(("spacing", "options", "sizes_mm"), CASES)
def test_network_input_and_way_back_equal_nnunet(spacing, options, sizes_mm):
    plans = plans_for(spacing, **options)
    manager = plans_handler.PlansManager(plans)
    configuration = manager.get_configuration("c")
    case = a_case(sizes_mm)
    properties = {"spacing": [float(v) for v in sizes_mm[::-1]]}
    raw = case.image.data.transpose(0, 3, 2, 1)
    expected, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        raw, None, properties, manager, configuration, DATASET
    )
    placement = PreprocessingPlan.of(plans, plans["configurations"]["c"], where="x").place(case, ("FLAIR", "T1w"))
    assert placement.input.shape[1:] == expected.shape
    assert np.allclose(placement.input[0].numpy(), expected, atol=2e-5)

    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(2, *expected.shape[1:])).astype(np.float32)) * 3
    mask, wanted = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, manager, configuration, manager.get_label_manager(DATASET), properties, return_probabilities=True
    )
    spec = Spec("x", ("FLAIR", "T1w"), (16, 16, 16))
    p = probability_on_scan(logits, placement, spec).numpy()
    assert np.allclose(p, wanted[1].transpose(2, 1, 0), atol=1e-5)
    assert np.array_equal(p > 0.5, mask.transpose(2, 1, 0) == 1)


def test_pull_back_is_the_derivative_through_crop_spline_and_clip():
    """Against finite differences of nnU-Net's own steps, normalisation constants fixed."""
    plans = plans_for((1.3, 0.8, 1.1), schemes=("CTNormalization", "CTNormalization"))
    recipe = PreprocessingPlan.of(plans, plans["configurations"]["c"], where="x")
    case = a_case((0.9, 1.0, 1.2), shape=(12, 13, 11))
    placement = recipe.place(case, ("FLAIR", "T1w"))
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(placement.input.shape[1:], dtype=torch.float64, generator=generator)
    pulled = placement.pull_back(g)
    assert placement.passes is not None
    assert placement.scan_passes is not None
    step = 0.05
    for channel, i, j, k in [(0, 6, 6, 5), (1, 5, 7, 4), (0, 8, 8, 6), (1, 6, 6, 3), (1, 7, 9, 5)]:
        moved = []
        for sign in (1, -1):
            data = case.image.data.copy()
            data[channel, i, j, k] += sign * step
            shifted = Case(Volume(data, case.image.affine, case.image.channels), case.head)
            moved.append(recipe.place(shifted, ("FLAIR", "T1w")).input[0].double())
        slope = float(((moved[0] - moved[1]) * g).sum()) / (2 * step) * INTENSITIES["std"]
        expected = float(pulled[channel, i, j, k]) / float(placement.scale[channel])
        assert slope == pytest.approx(expected, rel=1e-2, abs=5e-3)


def test_spline_matrix_is_scikit_images_resize():
    resize = pytest.importorskip("skimage.transform").resize
    x = np.random.default_rng(0).normal(size=(9, 12, 7))
    for target in [(13, 12, 5), (9, 30, 8)]:
        expected = resize(x, target, order=3, mode="edge", anti_aliasing=False, clip=False)
        matrices = [spline_resize(n, m, 3) for n, m in zip(x.shape, target, strict=True)]
        assert np.allclose(np.einsum("ijk,ai,bj,ck->abc", x, *matrices), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocessor_name": "Mine"}, "found Mine"),
        ({"normalization_schemes": ["Odd", "Odd"]}, "found Odd"),
        ({"resampling_fn_data": "resample_mine"}, "found resample_mine"),
    ],
)
def test_foreign_preprocessing_gets_one_sentence(change, message):
    plans = plans_for((1, 1, 1))
    with pytest.raises(ModelFileError, match=message):
        PreprocessingPlan.of(plans, {**plans["configurations"]["c"], **change}, where="plans.json")


def test_an_empty_scan_gets_one_sentence():
    plans = plans_for((1, 1, 1))
    empty = Case(Volume(np.zeros((2, 5, 5, 5), np.float32), np.eye(4), ("FLAIR", "T1w")), np.ones((5, 5, 5), bool))
    with pytest.raises(InputError, match="zero everywhere"):
        PreprocessingPlan.of(plans, plans["configurations"]["c"], where="x").place(empty, ("FLAIR", "T1w"))
