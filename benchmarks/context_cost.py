"""What the context experiment costs: one lesion against whole-volume predictions.

    python benchmarks/context_cost.py BIDS_DIR [--model builtin] [--lesions 3]

For the first scan with a reference: multiplications and additions of all convolutions, and processor time, for 34
whole-volume predictions (one is measured) and for one lesion's curve over 0-34 mm with one fill. Windows that do not meet
the lesion are never computed, and of the others only what the change reaches and the lesion reads.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lesionwise.asking.scan import Scan
from lesionwise.attribution import Gradient
from lesionwise.experiments.context import DISTANCES_MM, context_rows
from lesionwise.instances.matching import select
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.models.zoo import load_model
from lesionwise.units import Settings, find_case

PREDICTIONS = 34


def main() -> None:
    """Prints the counts and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--lesions", default="drawn:3", help="as everywhere: drawn:3, largest:1, 4,7")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(given.model)
    found = next(scan for scan in find_scans(given.bids_dir, channels=model.spec.channels).scans if scan.reference)
    case = read_case(found.images, reference=found.reference, name=found.name)
    settings = Settings(method=Gradient(), lesions=given.lesions, seed=1)
    (_, _, explained), whole_s, whole = measured(partial(find_case, model, case, settings))
    chosen = select(list(explained.instances), given.lesions, seed=settings.seed)
    print(
        f"{case.name.stem}, {model.spec.name}: one whole-volume prediction: {whole / 2e9:.0f} G multiply-adds, "
        f"{whole_s:.1f} s of processor time"
    )
    for lesion in chosen:
        scan = Scan(model, explained, wanted=(lesion.label,))
        windows = len(scan.probe(lesion).windows)
        _, seconds, flops = measured(partial(context_rows, scan, fills=("zero",), frozen=(False,)))
        print(
            f"lesion {lesion.label} ({lesion.n_voxels} voxels, {windows} of {len(scan.grid.boxes)} windows): "
            f"{len(DISTANCES_MM)} distances, {flops / 2e9:.0f} G multiply-adds, {seconds:.1f} s"
        )
        print(
            f"  {PREDICTIONS} predictions: {PREDICTIONS * whole / flops:.1f} times the arithmetic, "
            f"{PREDICTIONS * whole_s / seconds:.1f} times the processor time"
        )


def measured(run_fn: Callable[[], Any]) -> tuple[Any, float, int]:
    """What a run returns, its processor time in seconds, and its floating-point operations, counted in a run of their own."""
    with FlopCounterMode(display=False) as counter:
        run_fn()
    began = time.process_time()
    found = run_fn()
    return found, time.process_time() - began, counter.get_total_flops()


if __name__ == "__main__":
    main()
