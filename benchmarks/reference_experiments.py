"""The reference run of the experiments: small enough for two CPU cores, with a network whose answer is known.

    python benchmarks/reference_experiments.py OUT                          # 12 synthetic patients
    python benchmarks/reference_experiments.py OUT --data BIDS_DIR          # real scans, one session of each patient
    python benchmarks/reference_experiments.py OUT --data OPEN CLINIC --model builtin-folds    # several; patients out of fold
    python benchmarks/reference_experiments.py OUT --data BIDS_DIR --sessions all --only sanity    # repeated scans too
    python benchmarks/reference_experiments.py OUT-max --reduce max --only distance peaks    # the published maximum
    python benchmarks/reference_experiments.py OUT-nets --model builtin unet/ dynunet/       # networks side by side

Synthetic patients are 64 mm blocks (`size="small"`), seen through one window. "builtin" is the model that ships; "blind"
is the same model with the first layer's T1w weights set to 0: of it the modality experiment must say that T1w has no
share, the synthetic experiment that a lesion shown in T1w only is not found. With several models there is no blind one: each
has a folder of its own, and OUT/experiments holds them side by side. Lesions are drawn by outcome, as evenly over TP, FP and
FN as there are any. The sizes are those of two cores, not of a study: the full run is `lesionwise experiment NAME BIDS_DIR
OUT` on a data set. Finished scans are kept: the same command goes on.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lesionwise.attribution import SmoothGrad
from lesionwise.experiments.experiment import Finding
from lesionwise.experiments.networks import run_networks
from lesionwise.experiments.run import run_experiment
from lesionwise.geometry.box import Box
from lesionwise.geometry.volume import Case
from lesionwise.instances.components import label_components
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.models.folds import CrossValidated
from lesionwise.models.zoo import load_models
from lesionwise.phantom import synthesise
from lesionwise.segmenter import AbstractSegmenter, Segmenter
from lesionwise.units import Settings

OPTIONS: dict[str, Mapping[str, Any]] = {
    "modality": {"ig_steps": 8},
    "distance": {},
    "peaks": {},
    "context": {"distances_mm": (0, 1, 2, 3, 5, 7, 10, 15, 20, 30), "fills": ("zero", "tissue")},
    "synthetic": {"doses": (0.5, 1.0, 2.0), "radii_mm": (2.5, 4.0), "places": 1, "moved": 3},
    "sanity": {"stages": 3, "modes": ("cascading",), "seeds": 2},
    "faithfulness": {"n_samples": 4, "fractions": (0.0, 0.05, 0.2, 1.0), "perturbations": 6, "shakes": 1},
    "architecture": {"windows_vox": (48, 64, 96, 128), "context_mm": (0, 1, 2, 3, 5, 7, 10, 15, 20, 30)},
    "controls": {},
    "margins": {},
    "fills": {},
}
SIDES_VOX = (32, 48, 64)
"""Prediction windows that a block has room for."""
KNOWN_ANSWER = ("modality", "synthetic")


def blind_to(model: AbstractSegmenter, channel: str) -> Segmenter:
    """The model with the first convolution's weights of one channel set to 0."""
    network = copy.deepcopy(model.network)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv3d))
    with torch.no_grad():
        first.weight[:, model.spec.channels.index(channel)] = 0.0
    return Segmenter(network.eval(), replace(model.spec, name=f"{model.spec.name}, blind to {channel}"))


def seen_through(model: AbstractSegmenter, edge: int) -> AbstractSegmenter:
    """The model, or each network of a cross-validated one, with another prediction window."""
    if isinstance(model, CrossValidated):
        parts = (Segmenter(part.network, replace(part.spec, window=(edge,) * 3)) for part in model.parts)
        return replace(model, parts=tuple(parts))
    return Segmenter(model.network, replace(model.spec, window=(edge,) * 3))


def synthetic_patient(number: int) -> Case:
    """One 64 mm block."""
    return synthesise(9000 + number, size="small").case(subject=f"{number + 1:02d}")


def patients_of(data: list[Path], model: AbstractSegmenter, *, sessions: str) -> Iterator[Callable[[], Case]]:
    """The first session of every patient with a reference, or all."""
    seen: set[str] = set()
    for scan in [scan for bids_dir in data for scan in find_scans(bids_dir, channels=model.spec.channels).scans]:
        if scan.reference is not None and (sessions == "all" or scan.name.subject not in seen):
            seen.add(scan.name.subject)
            yield partial(read_case, scan.images, reference=scan.reference, name=scan.name, resample=True)


def main() -> None:
    """Runs what was asked for and prints every finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--data", type=Path, nargs="+", help="BIDS data sets with references instead of synthetic patients"
    )
    parser.add_argument("--model", nargs="+", default=["builtin"], help="several are held side by side")
    parser.add_argument("--sessions", default="first", choices=("first", "all"), help="of real patients")
    parser.add_argument(
        "--block", type=int, help="cut real scans to a cube of that many voxels around a lesion of median size"
    )
    parser.add_argument("--window", type=int, help="edge of the prediction window (the model's own; 64 for blocks)")
    parser.add_argument("--patients", type=int, default=12, help="synthetic ones")
    parser.add_argument("--lesions", default="drawn:10")
    parser.add_argument("--controls", type=int, default=3)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--reduce", default="mean", choices=("mean", "max"))
    parser.add_argument("--max-voxels", type=int, default=16, help="lesion voxels that a maximum looks at")
    parser.add_argument("--ig-steps", type=int, default=8, help="of Integrated Gradients; 0 leaves them out")
    parser.add_argument("--seed", type=int, default=1, help="of lesions drawn, control regions and noise")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(OPTIONS), choices=list(OPTIONS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    method = SmoothGrad(n_samples=given.samples, reduce=given.reduce, max_voxels=given.max_voxels)
    settings = Settings(method=method, lesions=given.lesions, controls=given.controls, seed=given.seed)
    models = load_models(given.model)
    options = {**OPTIONS, "modality": {"ig_steps": given.ig_steps}}
    if window := given.window or given.block or (None if given.data else 64):
        # One window covers the block: the run stays small, and fusion has tests of its own.
        models = {name: seen_through(m, window) for name, m in models.items()}
    folder, first = next(iter(models.items()))
    if given.data is None:
        cases: list[Any] = [partial(synthetic_patient, number) for number in range(given.patients)]
        options["architecture"] = {**OPTIONS["architecture"], "windows_vox": SIDES_VOX}
        options["sanity"] = {**OPTIONS["sanity"], "modes": ("cascading", "independent")}
    else:
        cases = list(patients_of(given.data, first, sessions=given.sessions))
        if given.block:
            cases = [partial(block_of, case, given.block) for case in cases]
    for name in given.only:
        if given.data is None and len(models) == 1 and name in KNOWN_ANSWER:
            show("blind", name, run_experiment, blind_to(first, "T1w"), cases, given.out / "blind", settings, options)
        if len(models) == 1:
            show(folder, name, run_experiment, first, cases, given.out / folder, settings, options)
        else:
            shared = dict.fromkeys(models, settings)
            show(", ".join(models), name, run_networks, models, cases, given.out, shared, options)


def block_of(read_fn: Callable[[], Case], edge: int) -> Case:
    """A real scan cut to a cube around its reference lesion of median size, so that one window covers it like a synthetic one."""
    case = read_fn()
    if case.reference is None or not case.reference.any():
        return case
    labels = label_components(case.reference)
    sizes = np.bincount(labels.ravel())[1:]
    middle = int(np.argsort(sizes, kind="stable")[len(sizes) // 2]) + 1
    start = np.argwhere(labels == middle).mean(axis=0).round().astype(int) - edge // 2
    start = np.clip(start, 0, np.maximum(np.subtract(case.image.shape, edge), 0)).tolist()
    box = Box((start[0], start[1], start[2]), (start[0] + edge, start[1] + edge, start[2] + edge))
    box = box.intersection(Box.whole(case.image.shape))
    return replace(
        case,
        image=case.image.crop(box),
        head=case.head[box.slices],
        reference=case.reference[box.slices],
        tissue={name: mask[box.slices] for name, mask in case.tissue.items()},
    )


def show(
    title: str,
    name: str,
    run_fn: Callable[..., Finding],
    asked: Any,
    cases: list[Any],
    out: Path,
    settings: Any,
    options: Any,
) -> None:
    """Runs one experiment and prints what it found."""
    began = time.perf_counter()
    finding = run_fn(name, asked, cases, out, settings=settings, options=options[name])
    print(f"\n## {title}: {name} ({time.perf_counter() - began:.0f} s)\n\n{finding.text}", flush=True)


if __name__ == "__main__":
    main()
