"""What a draw costs where a model has forty views: one nnU-Net alone, five of them mirrored, and the latter spread.

`python -m benchmarks.views [--window 64] [--shape 96] [--lesions 3] [--rounds 3] [--statistics fixed exact]`: one process,
one thread, processor time. An nnU-Net of four stages, 16-32-64-128, with instance norms and random weights; five such folds
with eight mirrors each are forty networks. A random scan. A draw's price is the difference between runs of few and of more
draws, the median of the rounds; "learning" is what the first draw waits for: the prediction and what the lesion depends on,
in every view.
"""

import argparse
import time
from dataclasses import replace
from itertools import product
from statistics import median

import torch
from torch import nn

from benchmarks.scene import Bench, plain_nnunet, random_scan
from lesionwise.attribution import SmoothGrad, attribute, plan_attribution
from lesionwise.models.nnunet import FusedViews

FEW, MORE = 2, 6


def folds(count: int) -> list[nn.Module]:
    """So many nnU-Nets with weights of their own."""
    made: list[nn.Module] = []
    for fold in range(count):
        torch.manual_seed(fold)
        made.append(plain_nnunet((16, 32, 64, 128)))
    return made


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("window", 64), ("shape", 96), ("lesions", 3), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--statistics", nargs="+", default=["fixed", "exact"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    scan = random_scan(given.lesions, (given.shape,) * 3)
    spec = replace(scan.spec, window=(given.window,) * 3)
    networks = folds(5)
    one = replace(scan, spec=spec, network=FusedViews(networks[:1]))
    forty = replace(scan, spec=spec, network=FusedViews(networks, mirrored=(0, 1, 2)))
    ways = {"one network": (one, "all"), "40 views, spread": (forty, "spread")}
    print("| statistics | views | s a draw | of one network | learning, s |\n|---|---|---|---|---|")
    for statistics in given.statistics:
        usual = 0.0
        for name, (bench, views) in ways.items():
            runs: dict[int, list[float]] = {draws: [] for draws in (FEW, MORE)}
            for _, draws in product(range(given.rounds), runs):
                runs[draws].append(seconds(bench, draws, views, statistics))
            few, more = (median(took) for took in runs.values())
            price = (more - few) / (MORE - FEW)
            usual = usual or price
            print(
                f"| {statistics} | {name} | {price:.2f} | {price / usual:.2f} | {few - FEW * price:.1f} |", flush=True
            )


def seconds(bench: Bench, draws: int, views: str, statistics: str) -> float:
    """Processor time of the lesions' maps, without the plan's measurements."""
    method = SmoothGrad(n_samples=draws, antithetic=False)
    options = {"statistics": statistics, "views": views}
    scene = (bench.network, bench.spec, bench.placement, bench.lesions)
    plan = plan_attribution(*scene, method=method, **options)
    began = time.process_time()
    attribute(*scene, method=method, plan=plan, **options)
    return time.process_time() - began


if __name__ == "__main__":
    main()
