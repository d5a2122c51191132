"""A small reference run of the experiments, with a network whose answer is known beside the built-in one.

    python benchmarks/reference_experiments.py OUT [--patients 6] [--lesions largest:3] [--samples 8] [--only modality ...]

Patients are synthetic 64 mm blocks (`size="small"`). "builtin" is the model that ships; "blind to T1w" is the same model
with the first layer's T1w weights set to 0: of it the modality experiment must say that T1w has no share, the synthetic
experiment that a lesion shown in T1w only is not found. The sizes are those of two CPU cores, not of a study: figures
that come out are an example, and the same commands on a data set are the study.
"""

import argparse
import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lesionwise.attribution import SmoothGrad
from lesionwise.experiments.run import run_experiment
from lesionwise.models.zoo import load_model
from lesionwise.phantom import synthesise
from lesionwise.segmenter import AbstractSegmenter, Segmenter
from lesionwise.units import Settings

OPTIONS: dict[str, Mapping[str, Any]] = {
    "modality": {"ig_steps": 0},
    "distance": {},
    "peaks": {},
    "context": {"distances_mm": (0, 1, 2, 3, 5, 7, 10, 15), "fills": ("zero", "tissue"), "frozen": (False,)},
    "synthetic": {"doses": (0.5, 1.0, 2.0), "radii_mm": (2.5, 4.0), "places": 1, "moved": 2},
    "sanity": {"stages": 3, "modes": ("cascading",), "seeds": 2},
    "faithfulness": {
        "methods": "gradient,smoothgrad,inputxgradient,gradcampp,hirescam",
        "n_samples": 4,
        "fractions": (0.0, 0.05, 0.2, 1.0),
        "perturbations": 4,
    },
}
KNOWN_ANSWER = ("modality", "synthetic")


def blind_to(model: AbstractSegmenter, channel: str) -> Segmenter:
    """The model with the first convolution's weights of one channel set to 0."""
    network = copy.deepcopy(model.network)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv3d))
    with torch.no_grad():
        first.weight[:, model.spec.channels.index(channel)] = 0.0
    return Segmenter(network.eval(), replace(model.spec, name=f"{model.spec.name}, blind to {channel}"))


def main() -> None:
    """Runs what was asked for and prints every finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--lesions", default="largest:3")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(OPTIONS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cases = [synthesise(9000 + n, size="small").case(subject=f"{n + 1:02d}") for n in range(given.patients)]
    settings = Settings(method=SmoothGrad(n_samples=given.samples), lesions=given.lesions, controls=3)
    shipped = load_model("builtin")
    # One window covers the block: the run stays small, and fusion has tests of its own.
    builtin = Segmenter(shipped.network, replace(shipped.spec, window=(64, 64, 64)))
    runs = [("blind", blind_to(builtin, "T1w"), [name for name in KNOWN_ANSWER if name in given.only])]
    runs.append(("builtin", builtin, [name for name in OPTIONS if name in given.only]))
    for folder, model, names in runs:
        for name in names:
            began = time.perf_counter()
            finding = run_experiment(name, model, cases, given.out / folder, settings=settings, options=OPTIONS[name])
            print(f"\n## {model.spec.name}: {name} ({time.perf_counter() - began:.0f} s)\n\n{finding.text}", flush=True)


if __name__ == "__main__":
    main()
