"""What the context experiment costs: one lesion against whole-volume predictions.

    python benchmarks/context_cost.py BIDS_DIR [--model builtin] [--lesions 3]

For the first scan with a reference: windows that the network computes, and processor time, for 34 whole-volume predictions
(one is timed) and for one lesion's curve over 0-34 mm with one fill. Windows that do not meet the lesion are never computed,
and of the others only those whose content changed.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from lesionwise.attribution import Gradient
from lesionwise.experiments.context import DISTANCES_MM, context_rows
from lesionwise.experiments.run import unexplained
from lesionwise.experiments.scan import Scan
from lesionwise.instances.matching import select
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.models.zoo import load_model
from lesionwise.units import Settings

PREDICTIONS = 34


def main() -> None:
    """Prints the counts and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--lesions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(given.model)
    found = next(scan for scan in find_scans(given.bids_dir, channels=model.spec.channels).scans if scan.reference)
    case = read_case(found.images, reference=found.reference, name=found.name)
    settings = Settings(method=Gradient(), lesions=f"drawn:{given.lesions}", seed=1)
    computed = 0

    def count(module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal computed
        computed += len(inputs[0])

    handle = model.network.register_forward_hook(count)
    began = time.process_time()
    explained = unexplained(model, case, settings)
    whole_s, whole = time.process_time() - began, computed
    chosen = select(list(explained.instances), settings.lesions, seed=settings.seed)
    print(
        f"{case.name.stem}, {model.spec.name}: one whole-volume prediction: {whole} windows, {whole_s:.1f} s of processor time"
    )
    ratios = []
    for lesion in chosen:
        computed, began = 0, time.process_time()
        scan = Scan(model, explained, wanted=(lesion.label,))
        context_rows(scan, distances_mm=DISTANCES_MM, fills=("zero",), frozen=(False,))
        seconds = time.process_time() - began
        ratios.append((PREDICTIONS * whole / computed, PREDICTIONS * whole_s / seconds))
        print(
            f"lesion {lesion.label} ({lesion.n_voxels} vox): {len(DISTANCES_MM)} distances, {computed} windows, {seconds:.0f} s"
        )
        print(
            f"  {PREDICTIONS} predictions: {ratios[-1][0]:.1f} times the windows, {ratios[-1][1]:.1f} times the processor time"
        )
    handle.remove()


if __name__ == "__main__":
    main()
