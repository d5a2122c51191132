"""The reference run of the experiments: small enough for two CPU cores, with a network whose answer is known.

    python benchmarks/reference_experiments.py OUT                          # 12 synthetic patients
    python benchmarks/reference_experiments.py OUT --data BIDS_DIR          # real scans, one session of each patient
    python benchmarks/reference_experiments.py OUT-max --reduce max --only distance peaks    # the published maximum

Synthetic patients are 64 mm blocks (`size="small"`), seen through one window. "builtin" is the model that ships; "blind"
is the same model with the first layer's T1w weights set to 0: of it the modality experiment must say that T1w has no
share, the synthetic experiment that a lesion shown in T1w only is not found. Lesions are drawn by outcome, as evenly over
TP, FP and FN as there are any. The sizes are those of two cores, not of a study: the full run is
`lesionwise experiment NAME BIDS_DIR OUT` on a data set. Finished scans are kept: the same command goes on.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lesionwise.attribution import SmoothGrad
from lesionwise.experiments.run import run_experiment
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.models.zoo import load_model
from lesionwise.phantom import synthesise
from lesionwise.segmenter import AbstractSegmenter, Segmenter
from lesionwise.units import Settings
from lesionwise.volume import Case

OPTIONS: dict[str, Mapping[str, Any]] = {
    "modality": {"ig_steps": 8},
    "distance": {},
    "peaks": {},
    "context": {"distances_mm": (0, 1, 2, 3, 5, 7, 10, 15, 20, 30), "fills": ("zero", "tissue"), "frozen": (False,)},
    "synthetic": {"doses": (0.5, 1.0, 2.0), "radii_mm": (2.5, 4.0), "places": 1, "moved": 3},
    "sanity": {"stages": 3, "modes": ("cascading",), "seeds": 2},
    "faithfulness": {"n_samples": 4, "fractions": (0.0, 0.05, 0.2, 1.0), "perturbations": 6},
    "architecture": {"windows_vox": (48, 64, 96, 128)},
}
KNOWN_ANSWER = ("modality", "synthetic")
WHOLE_SCANS_ONLY = ("architecture",)


def blind_to(model: AbstractSegmenter, channel: str) -> Segmenter:
    """The model with the first convolution's weights of one channel set to 0."""
    network = copy.deepcopy(model.network)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv3d))
    with torch.no_grad():
        first.weight[:, model.spec.channels.index(channel)] = 0.0
    return Segmenter(network.eval(), replace(model.spec, name=f"{model.spec.name}, blind to {channel}"))


def synthetic_patient(number: int) -> Case:
    """One 64 mm block."""
    return synthesise(9000 + number, size="small").case(subject=f"{number + 1:02d}")


def patients_of(bids_dir: Path, model: AbstractSegmenter) -> Iterator[Callable[[], Case]]:
    """The first session of every patient with a reference."""
    seen: set[str] = set()
    for scan in find_scans(bids_dir, channels=model.spec.channels).scans:
        if scan.reference is not None and scan.name.subject not in seen:
            seen.add(scan.name.subject)
            yield partial(read_case, scan.images, reference=scan.reference, name=scan.name, resample=True)


def main() -> None:
    """Runs what was asked for and prints every finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="a BIDS data set with references instead of synthetic patients")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--patients", type=int, default=12, help="synthetic ones")
    parser.add_argument("--lesions", default="drawn:10")
    parser.add_argument("--controls", type=int, default=3)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--reduce", default="mean", choices=("mean", "max"))
    parser.add_argument("--max-voxels", type=int, default=16, help="lesion voxels that a maximum looks at")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(OPTIONS), choices=list(OPTIONS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    method = SmoothGrad(n_samples=given.samples, reduce=given.reduce, max_voxels=given.max_voxels)
    settings = Settings(method=method, lesions=given.lesions, controls=given.controls, seed=1)
    model = load_model(given.model)
    runs = [(model.spec.name, model, given.only)]
    if given.data is None:
        # One window covers the block: the run stays small, and fusion has tests of its own.
        model = Segmenter(model.network, replace(model.spec, window=(64, 64, 64)))
        cases: list[Any] = [partial(synthetic_patient, number) for number in range(given.patients)]
        runs = [
            ("blind", blind_to(model, "T1w"), [name for name in given.only if name in KNOWN_ANSWER]),
            (model.spec.name, model, [name for name in given.only if name not in WHOLE_SCANS_ONLY]),
        ]
    else:
        cases = list(patients_of(given.data, model))
    for folder, network, names in runs:
        for name in names:
            began = time.perf_counter()
            finding = run_experiment(name, network, cases, given.out / folder, settings=settings, options=OPTIONS[name])
            took = time.perf_counter() - began
            print(f"\n## {network.spec.name}: {name} ({took:.0f} s)\n\n{finding.text}", flush=True)


if __name__ == "__main__":
    main()
