"""A real nnU-Net, planned, preprocessed and trained by nnunetv2, predicts here what it predicts there."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from blobs import head_with_balls

import lesionwise as lw
from lesionwise.attribution import METHODS
from lesionwise.errors import InputError, ModelFileError
from lesionwise.geometry.volume import Case, Volume
from lesionwise.io.nifti import write_image
from lesionwise.models import nnunet, zoo
from lesionwise.models.description import describe
from lesionwise.windows import WindowGrid, predict, probability_on_scan

pytest.importorskip("nnunetv2")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def a_patient(seed, shape=(24, 30, 26), affine=None):
    """Skull-stripped ellipsoid with bright (FLAIR) and dark (T1) blobs."""
    rng = np.random.default_rng(seed)
    head, lesions = head_with_balls(rng, shape, count=6, reach=0.45, head=0.85)
    texture = rng.normal(size=(2, *shape)) * 8
    flair, t1 = 100 + 70 * lesions + texture[0], 150 - 60 * lesions + texture[1]
    data = np.stack([flair, t1]).astype(np.float32) * head
    return Case(Volume(data, np.eye(4) if affine is None else affine, ("FLAIR", "T1w")), head, lesions & head)


def write_patient(case, folder, labels, name):
    for n in range(2):
        write_image(folder / f"{name}_000{n}.nii.gz", case.image.data[n], case.image.affine)
    if labels is not None:
        write_image(labels / f"{name}.nii.gz", case.reference, case.image.affine, dtype=np.uint8)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder with two folds, made by nnunetv2 itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only lose by sharing
    root = tmp_path_factory.mktemp("nnunet")
    before = dict(os.environ)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1", OMP_NUM_THREADS="1")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir()
        os.environ[name] = str(root / name)
    try:
        yield _train(root)
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(threads)


def _train(root):
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    raw = root / "nnUNet_raw" / "Dataset901_Blobs"
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    affine = np.diag([1.1, 1.0, 1.2, 1.0])
    for n in range(5):
        write_patient(a_patient(n, affine=affine), raw / "imagesTr", raw / "labelsTr", f"case{n}")
    dataset = {
        "channel_names": {"0": "FLAIR", "1": "T1"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 5,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIO",
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    extract_fingerprint_dataset(901, num_processes=1, verbose=False, show_progress_bar=False)
    planner = ExperimentPlanner(901)
    planner.UNet_base_num_features = 4
    planner.plan_experiment()
    os.environ.update(nnUNet_n_proc_DA="0")  # planning divides by it, training starts that many workers
    preprocessed = root / "nnUNet_preprocessed" / "Dataset901_Blobs"
    plans_file = preprocessed / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    fullres = plans["configurations"]["3d_fullres"]
    fullres.update(patch_size=[24, 16, 20], batch_size=2, spacing=[1.0, 1.1, 1.1])
    kwargs = fullres["architecture"]["arch_kwargs"]
    kwargs.update(
        n_stages=3,
        features_per_stage=[4, 8, 8],
        kernel_sizes=[[3, 3, 3]] * 3,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        n_conv_per_stage=[1, 1, 1],
        n_conv_per_stage_decoder=[1, 1],
    )
    plans_file.write_text(json.dumps(plans))
    DefaultPreprocessor(verbose=False).run(901, "3d_fullres", "nnUNetPlans", num_processes=1)
    shutil.copytree(raw / "labelsTr", preprocessed / "gt_segmentations")
    for fold in (0, 1):
        torch.manual_seed(fold)
        trainer = nnUNetTrainer(
            {**plans, "continue_training": False}, "3d_fullres", fold, dataset, device=torch.device("cpu")
        )
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 2, 12, 1
        trainer.initial_lr = 0.01
        trainer.run_training()
    return next((root / "nnUNet_results").glob("*/*3d_fullres"))


def predictor_of(results, *, folds=None, mirroring=True, checkpoint="checkpoint_final.pth"):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(results), folds, checkpoint)
    return predictor


def their_prediction(predictor, case):
    spacing = [float(v) for v in case.image.voxel_sizes_mm[::-1]]
    raw = case.image.data.transpose(0, 3, 2, 1)
    mask, p = predictor.predict_single_npy_array(raw, {"spacing": spacing}, None, None, True)
    return mask.transpose(2, 1, 0) == 1, p[1].transpose(2, 1, 0)


def our_prediction(model, case):
    placement = model.place(case)
    grid = WindowGrid.of(model.spec, placement.input.shape[2:])
    logits = predict(model.network, placement.input, grid)
    return probability_on_scan(logits, placement, model.spec).double().numpy()


def summed_weight(model, case):
    """sum_w a_w on the scan's grid, where a window's centre weighs 1; 0 outside the crop."""
    placement = model.place(case)
    grid = WindowGrid.of(model.spec, placement.input.shape[2:])
    return placement.to_scan.forward(grid.unpad(grid.total_importance)).numpy()


def in_half_precision(model, case):
    """Our windows, summed as nnU-Net sums them: weights times 10, everything in half precision."""
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    placement = model.place(case)
    grid = WindowGrid.of(model.spec, placement.input.shape[2:])
    weight = compute_gaussian(model.spec.window, value_scaling_factor=10, device="cpu")
    x, folds = grid.pad(placement.input), []
    for fold in model.network.folds:
        one = nnunet.FusedViews([fold], tuple(model.spec.card["mirroring_axes"])).eval()
        fused = torch.zeros(2, *grid.padded_shape, dtype=torch.half)
        total = torch.zeros(grid.padded_shape, dtype=torch.half)
        with torch.no_grad():
            for box in grid.boxes:
                fused[(slice(None), *box.slices)] += one(x[(..., *box.slices)])[0] * weight
                total[box.slices] += weight
        folds.append(grid.unpad(fused / total))
    logits = (sum(folds) / len(folds)).float()
    return probability_on_scan(logits, placement, model.spec).double().numpy()


SCANS = [
    (7, (24, 30, 26), np.diag([1.1, 1.0, 1.2, 1.0])),
    (8, (30, 25, 22), np.diag([-0.9, 1.3, 1.5, 1.0])),
]


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {}),
        ("?folds=1&mirroring=off", {"folds": (1,), "mirroring": False}),
        ("?checkpoint=best&folds=0", {"folds": (0,), "checkpoint": "checkpoint_best.pth"}),
    ],
)
def test_probability_equals_nnunets_own_predictor(results, scan, query, options):
    seed, shape, affine = scan
    case = a_patient(seed, shape, affine)
    mask, expected = their_prediction(predictor_of(results, **options), case)
    model = zoo.load_model(f"{results}{query}")
    p, weight = our_prediction(model, case), summed_weight(model, case)
    # nnU-Net sums in half precision: at the crop's corners its weights are below what half precision resolves
    resolved = (weight > 1e-6) | (weight == 0)
    assert resolved[case.head].mean() > 0.9
    assert expected.max() - expected[case.head].min() > 0.05, "a constant prediction would prove nothing"
    assert np.abs(p - expected)[resolved].max() < 5e-3
    assert np.abs(in_half_precision(model, case) - expected).max() < 5e-3
    log_odds = np.log(np.clip(p, 1e-12, 1)) - np.log1p(-np.clip(p, 0, 1 - 1e-12))
    clear = np.abs(log_odds) >= 0.05
    assert np.array_equal((p > 0.5)[clear], mask[clear])


def test_probability_is_exact_where_nnunet_accumulates_in_single_precision(results, monkeypatch):
    import nnunetv2.inference.predict_from_raw_data as theirs

    case = a_patient(*SCANS[1])
    importance = theirs.compute_gaussian
    monkeypatch.setattr(theirs, "compute_gaussian", lambda *a, **k: importance(*a, **{**k, "dtype": torch.float32}))
    monkeypatch.setattr(theirs.torch, "half", torch.float32)
    _, expected = their_prediction(predictor_of(results), case)
    monkeypatch.undo()
    assert np.abs(our_prediction(zoo.load_model(results), case) - expected).max() < 1e-5


def test_gradients_flow_through_windows_mirrors_and_folds(results):
    """d(sum of lesion logits on the scan)/d(scan) against finite differences of the whole prediction."""
    model = zoo.load_model(f"{results}?folds=0,1")
    model.network.double()
    case = a_patient(*SCANS[1])
    placement = model.place(case)
    x = placement.input.double().requires_grad_()
    grid = WindowGrid.of(model.spec, tuple(x.shape[2:]))
    weights = torch.from_numpy(np.argwhere(case.reference))

    def target(inputs):
        fused = 0
        padded = grid.pad(inputs)
        for n, box in enumerate(grid.boxes):
            z = model.network(padded[(..., *box.slices)])[0] * grid.weight(n)
            widths = [v for a in (2, 1, 0) for v in (box.start[a], grid.padded_shape[a] - box.stop[a])]
            fused = fused + torch.nn.functional.pad(z, widths)
        on_scan = placement.to_scan.forward(grid.unpad(fused))
        i, j, k = weights.T
        return on_scan[1, i, j, k].mean()

    (g,) = torch.autograd.grad(target(x), x)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        slope = (target(x + 1e-7 * direction) - target(x - 1e-7 * direction)) / 2e-7
    assert float((g * direction).sum()) == pytest.approx(float(slope), rel=1e-3)
    assert placement.pull_back(g[0]).shape == case.image.data.shape


def test_explained_lesion_is_the_derivative_of_the_whole_prediction(results):
    """`explain` with the plain gradient against autograd through window fusion, mirrors, folds and the way back."""
    model = zoo.load_model(f"{results}?mirroring=off")
    case = a_patient(*SCANS[1])
    explained = lw.explain(model, case, method=METHODS["gradient"](), lesions="largest:1", device="cpu")
    (number,) = explained.maps
    voxels = torch.from_numpy(np.argwhere(explained.explained.labels == number))
    placement = model.place(case)
    x = placement.input.clone().requires_grad_()
    grid = WindowGrid.of(model.spec, tuple(x.shape[2:]))
    fused, padded = 0, grid.pad(x)
    for n, box in enumerate(grid.boxes):
        z = model.network(padded[(..., *box.slices)])[0] * grid.weight(n).float()
        widths = [v for a in (2, 1, 0) for v in (box.start[a], grid.padded_shape[a] - box.stop[a])]
        fused = fused + torch.nn.functional.pad(z, widths)
    i, j, k = voxels.T
    on_scan = placement.to_scan.forward(grid.unpad(fused))
    (g,) = torch.autograd.grad((on_scan[1] - on_scan[0])[i, j, k].mean(), x)
    expected = placement.pull_back(g[0]).numpy()
    ours = explained.maps[number].on_grid(case.image.shape)
    assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()


def test_description_names_what_nnunet_does(results):
    model = zoo.load_model(f"{results}?mirroring=off")
    description = describe(model)
    rows = dict(description.rows())
    assert rows["channels"] == "FLAIR, T1w"
    assert rows["window"].startswith("24 x 16 x 20")
    assert rows["folds"] == "0, 1"
    assert description.spec.cam_layer in {layer.name for layer in description.layers}
    assert "cropped to non-zero voxels" in description.preprocessing


def test_fold_folder_and_checkpoint_are_recognised(results):
    assert zoo.load_model(results / "fold_1").spec.card["folds"] == "1"
    assert zoo.load_model(results / "fold_0" / "checkpoint_best.pth").spec.card["checkpoint"] == "checkpoint_best.pth"


def test_what_is_missing_is_said_in_one_sentence(results, tmp_path):
    for query, message in [
        ("?folds=4", "Expected checkpoint_final.pth in fold_4"),
        ("?checkpoint=none", "checkpoint_none.pth"),
        ("?lesion=tumour", "background, lesion, found tumour"),
        ("?channels=FLAIR", "Expected 2 channel names"),
        ("?fold=1", "found 'fold'"),
        ("?mirroring=no", "mirroring=on or mirroring=off .* found mirroring=no"),
        ("?folds=0,0", "every fold once .* count one twice"),
        ("?folds=0,00", "every fold once"),
        ("?folds=0,all", "found 'all' in folds=0,all"),
        ("?folds=", "a value for the option folds"),
        ("?folds=0&folds=1", "the option folds .* once, found it twice"),
        ("?checkpoint=latest", "checkpoint_latest.pth in fold_0, fold_1 .* found fold_0/checkpoint_best.pth"),
        ("?channels=FLAIR,FLAIR", "FLAIR twice"),
    ]:
        with pytest.raises((ModelFileError, InputError), match=message):
            zoo.load_model(f"{results}{query}")
    broken = tmp_path / "broken"
    shutil.copytree(results, broken)
    plans = json.loads((broken / "plans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    kept = architecture["network_class_name"]
    for name, message in [("os.system", "found os.system"), (f"{nnunet._ARCHITECTURES}unet.Nope", "Nope")]:
        architecture["network_class_name"] = name
        (broken / "plans.json").write_text(json.dumps(plans))
        with pytest.raises(ModelFileError, match=message):
            zoo.load_model(broken)
    architecture["network_class_name"] = kept
    architecture["arch_kwargs"]["features_per_stage"] = [4, 8, 12]
    (broken / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ModelFileError, match="of another shape"):
        zoo.load_model(broken)
    (broken / "dataset.json").unlink()
    with pytest.raises(ModelFileError, match=r"dataset\.json"):
        zoo.load_model(broken)


def test_near_misses_are_asked_back(results):
    for path in (results.parent, results / "plans.json", results / "dataset.json"):
        with pytest.raises(ModelFileError, match=f"did you mean {results}\\?"):
            zoo.load_model(path)
    with pytest.raises(InputError, match="Expected \\?folds= with the results folder"):
        zoo.load_model(f"{results / 'fold_1'}?folds=0")


def test_checkpoints_that_are_not_final_are_said(results, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(results, unfinished)
    assert zoo.load_model(unfinished).notes == ()
    (unfinished / "fold_1" / "checkpoint_final.pth").unlink()
    mixed = zoo.load_model(unfinished)
    assert mixed.spec.card["checkpoint"] == "checkpoint_best.pth, checkpoint_final.pth"
    assert "fold_1 of unfinished has no checkpoint_final.pth" in mixed.notes[0]
    assert dict(describe(mixed).rows())["note"] == mixed.notes[0]
    with pytest.raises(ModelFileError, match=r"Expected checkpoint_final\.pth in fold_1"):
        zoo.load_model(f"{unfinished}?checkpoint=final")
    (unfinished / "fold_0" / "checkpoint_final.pth").unlink()
    assert "fold_0, fold_1 of unfinished have no checkpoint_final.pth" in zoo.load_model(unfinished).notes[0]
    (unfinished / "fold_0" / "checkpoint_best.pth").unlink()
    left = zoo.load_model(unfinished)
    assert left.spec.card["folds"] == "1"
    assert "fold_0 of unfinished without a checkpoint left out" in left.notes[0]
    whole = (unfinished / "fold_1" / "checkpoint_best.pth").read_bytes()
    (unfinished / "fold_1" / "checkpoint_best.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match=r"an nnU-Net v2 checkpoint .* damaged or truncated") as caught:
        zoo.load_model(unfinished)
    assert "weights_only" not in str(caught.value)


def test_inputs_of_one_name_are_refused_until_they_are_named(results, tmp_path):
    alike = tmp_path / "alike"
    shutil.copytree(results, alike)
    dataset = json.loads((alike / "dataset.json").read_text())
    dataset["channel_names"] = {"0": "MPRAGE", "1": "T1"}
    (alike / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(InputError, match=r"T1w twice in T1w, T1w: name them in order with \?channels="):
        zoo.load_model(alike)
    assert zoo.load_model(f"{alike}?channels=FLAIR,T1w").spec.channels == ("FLAIR", "T1w")


def test_a_missing_package_is_called_by_its_own_name(results, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError("No module named 'timm'", name="timm.layers")

    monkeypatch.setattr(nnunet, "import_module", absent)
    configuration = {
        "architecture": {
            "network_class_name": f"{nnunet._ARCHITECTURES}primus.Primus", "arch_kwargs": {}, "_kw_requires_import": [],
        }
    }  # fmt: skip
    with pytest.raises(ModelFileError, match="needs the package timm, which is not installed: pip install timm"):
        nnunet.build_network(configuration, channels=2, classes=2, where="plans.json")


def test_views_folds_and_preprocessing_are_in_the_fingerprint(results, tmp_path):
    found = [
        zoo.load_model(f"{results}{query}").fingerprint for query in ("", "?mirroring=off", "?folds=0", "?folds=1")
    ]
    other = tmp_path / "other"
    shutil.copytree(results, other)
    plans = json.loads((other / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.2]
    (other / "plans.json").write_text(json.dumps(plans))
    found.append(zoo.load_model(other).fingerprint)
    assert len(set(found)) == 5
    assert zoo.load_model(results).fingerprint == found[0]
