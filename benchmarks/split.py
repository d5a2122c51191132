"""Networks with instance norm: whole-volume autograd, the exact engine and the split map beside one another.

`python -m benchmarks.split [--draws 50] [--window 64] [--shape 160] [--model RUN]`: one process, one thread, processor time.
MONAI's DynUNet 16-32-64 with residual blocks and instance norm (the published "nnU-Net"), random weights, or a model of
such norms that was trained; a random scan.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet
from torch import nn

from benchmarks.scene import Bench, random_scan
from lesionwise.attribution import RunOptions, Session, SmoothGrad, attribute
from lesionwise.models.zoo import load_model


def network() -> nn.Module:
    """The published stand-in for nnU-Net."""
    torch.manual_seed(0)
    return DynUNet(
        3, 2, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=(16, 32, 64), norm_name="instance", res_block=True
    ).eval()  # fmt: skip


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser()
    for name, value in (("draws", 50), ("window", 64), ("shape", 160), ("lesions", 25)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--model", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scan = random_scan(given.lesions, (given.shape,) * 3)
    spec = replace(scan.spec, window=(given.window,) * 3)
    chosen = network() if given.model is None else load_model(given.model).network
    bench = replace(scan, network=chosen, spec=spec)
    forward_s, backward_s = whole_volume(bench)
    print(f"Whole-volume autograd: {forward_s:.1f} s forward, {backward_s:.1f} s per derivative (processor time).")
    for lesions in (1, given.lesions):
        theirs = forward_s + lesions * backward_s
        for statistics in ("exact", "split", "fixed"):
            plan = planned(bench, lesions, given.draws, statistics)
            seconds = plan.seconds / given.draws
            print(
                f"| {lesions} | {statistics} | {plan.full_draws} | {theirs:.1f} | {seconds:.2f} | {theirs / seconds:.0f}x "
                f"| {plan.memory_bytes / 2**30:.2f} | by the plan's counts |"
            )
    for statistics, draws in (("exact", 2), ("fixed", 8), ("split", 8)):
        plan = replace(planned(bench, 1, given.draws, statistics), draws=draws)
        method = SmoothGrad(n_samples=draws, antithetic=False)
        plan = replace(plan, full_draws=min(plan.full_draws, 4))
        took, found = timed(lambda m=method, p=plan, s=statistics: maps(bench, m, p, s))
        print(f"{statistics}: {draws} draws and {plan.full_draws} full ones of one lesion took {took:.1f} s.")
        for name, part in found.parts.items():
            variance = float(np.square(part.se, dtype=float).sum()) * part.draws
            print(
                f"  variance of one draw of the part {name}: {variance:.3g}; sum of |M| {np.abs(part.data).sum():.3g}"
            )


def whole_volume(bench: Bench) -> tuple[float, float]:
    """Seconds of the fused forward pass of MONAI's inferer, and of one lesion's derivative through it."""
    x = bench.placement.input.clone().requires_grad_(True)
    began = time.process_time()
    fused = sliding_window_inference(
        x, bench.spec.window, 1, bench.network, overlap=bench.spec.overlap, mode="gaussian", sigma_scale=0.125
    )[0]
    middle = time.process_time()
    i, j, k = np.unique(bench.lesions[0], axis=0).T
    torch.autograd.grad((fused[1] - fused[0])[i, j, k].mean(), x)
    return middle - began, time.process_time() - middle


def planned(bench: Bench, lesions: int, draws: int, statistics: str) -> Any:
    """The plan, whose times are measured on one window."""
    options, method = RunOptions(statistics=statistics), SmoothGrad(n_samples=draws, antithetic=False)  # type: ignore[arg-type]
    sets = bench.lesions[:lesions]
    opened = Session.open(bench.network, bench.spec, bench.placement, sets, method, options)
    with patch("time.perf_counter", time.process_time), opened as session:  # neighbours on the cores do not count
        return session.plan()


def maps(bench: Bench, method: SmoothGrad, plan: Any, statistics: str) -> Any:
    """One lesion's map."""
    sets = bench.lesions[:1]
    return attribute(
        bench.network, bench.spec, bench.placement, sets, method=method, plan=plan, statistics=statistics
    )[0]  # fmt: skip


def timed(run_fn: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time, and what was returned."""
    began = time.process_time()
    found = run_fn()
    return time.process_time() - began, found


if __name__ == "__main__":
    main()
