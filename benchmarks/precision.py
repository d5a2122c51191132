"""`python -m benchmarks.precision`: what float32, bfloat16 and channels-last cost and how far their maps are from float64's.

One lesion (107 voxels), reduction mean, one noise sample, on the benchmark's network and random scan, derivatives taken
locally; the ways alternate within one run, so that a busy machine slows all of them. Processor time, one thread.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from benchmarks.cases import timed
from benchmarks.scene import Bench, random_scan
from lesionwise.attribution import Attribution, SmoothGrad, attribute, plan_attribution


def ways(bench: Bench) -> dict[str, Callable[[], Attribution]]:
    """The map of the first lesion in each precision and memory layout."""
    method, sets = SmoothGrad(n_samples=1), bench.lesions[:1]
    plan = plan_attribution(bench.network, bench.spec, bench.placement, sets, method=method)
    plan = replace(plan, schedule=replace(plan.schedule, strategy="local"))
    wide = replace(bench.placement, input=bench.placement.input.double(), scale=bench.placement.scale.double())
    double = copy.deepcopy(bench.network).double()
    channels_last = copy.deepcopy(bench.network).to(memory_format=torch.channels_last_3d)

    def explain(network: nn.Module, **changes: object) -> Attribution:
        options = {"placement": bench.placement, **changes}
        return attribute(network, bench.spec, voxel_sets=sets, method=method, plan=plan, **options)[0]  # type: ignore[arg-type]

    return {
        "float64": lambda: explain(double, placement=wide),
        "float32": lambda: explain(bench.network),
        "float32, channels-last": lambda: explain(channels_last),
        "bfloat16 (autocast)": lambda: explain(bench.network, autocast=torch.bfloat16),
    }


def main(rounds: int = 2) -> None:
    """Prints a table."""
    torch.set_num_threads(1)
    found: dict[str, Attribution] = {}
    seconds: dict[str, list[float]] = {}
    chosen = ways(random_scan())
    for _ in range(rounds):
        for name, explain_fn in chosen.items():

            def keep(name: str = name, explain_fn: Callable[[], Attribution] = explain_fn) -> None:
                found[name] = explain_fn()

            seconds.setdefault(name, []).append(timed(keep))
    reference = found["float64"]
    print("| precision | largest error / largest value | relative error (L2) | time / float32 |\n|---|---|---|---|")
    for name, own in found.items():
        box = own.box.intersection(reference.box)
        a, b = (
            one.data[(slice(None), *box.relative_to(one.box).slices)].astype(np.float64) for one in (own, reference)
        )
        largest = np.abs(a - b).max() / np.abs(b).max()
        whole = np.linalg.norm(a - b) / np.linalg.norm(b)
        ratio = min(seconds[name]) / min(seconds["float32"])
        print(f"| {name} | {largest:.1e} | {whole:.1e} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
