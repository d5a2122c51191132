"""`python -m benchmarks.scaling [--figure docs/images/scaling.svg]`: how time grows with lesions, samples, voxels, volume.

The benchmark's U-Net at half width (16-32-64-128-256), random scan, windows of 96^3, local derivatives, processor time of one
thread without the plan's measurements.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import UNet

from benchmarks.cases import timed
from benchmarks.scene import Bench, random_scan
from lesionwise.attribution import Gradient, SmoothGrad, attribute, plan_attribution
from lesionwise.types import Shape

SMALL: Shape = (128, 128, 128)


def half_width(shape: Shape, count: int = 25) -> Bench:
    """The benchmark's scan with a network of half the channels."""
    torch.manual_seed(0)
    network = UNet(3, 2, 2, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), norm="batch").eval()
    return replace(random_scan(count, shape), network=network)


def seconds(bench: Bench, sets: Sequence[np.ndarray], method: SmoothGrad) -> float:
    """Processor time of the maps."""
    plan = plan_attribution(bench.network, bench.spec, bench.placement, sets, method=Gradient())
    plan = replace(plan, schedule=replace(plan.schedule, strategy="local", kept_windows=8))
    return timed(lambda: attribute(bench.network, bench.spec, bench.placement, list(sets), method=method, plan=plan))


def measured() -> dict[str, list[tuple[float, float]]]:
    """(size, seconds) by what grows."""
    bench = half_width(SMALL)
    mean = SmoothGrad(n_samples=2, antithetic=False)
    most = SmoothGrad(n_samples=1, reduce="max", max_voxels=None)
    found: dict[str, list[tuple[float, float]]] = {}
    found["lesions (mean, 2 samples)"] = [(n, seconds(bench, bench.lesions[:n], mean)) for n in (1, 3, 8, 24)]
    found["samples (mean, one lesion)"] = [
        (n, seconds(bench, bench.lesions[:1], replace(mean, n_samples=n))) for n in (1, 4, 16, 32)
    ]
    found["voxels of the lesion (max, 1 sample)"] = [
        (n, seconds(bench, [bench.lesions[0][:n]], most)) for n in (1, 10, 30, 107)
    ]
    volumes: list[Shape] = [(96, 96, 96), SMALL, (182, 182, 182), (256, 256, 256)]
    found["million voxels of the scan (mean, one lesion, 2 samples)"] = [
        (np.prod(shape) / 1e6, seconds(one := half_width(shape, 1), one.lesions[:1], mean)) for shape in volumes
    ]
    return found


def draw(found: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """One small panel per quantity."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(11, 2.7), constrained_layout=True)
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        size, spent = np.array(points).T
        axis.plot(size, spent, "o-", color="#1f5a8a", markersize=4, linewidth=1.2)
        what, _, how = name.partition(" (")
        axis.set(xlabel=what, xlim=(0, None), ylim=(0, None))
        axis.set_title(how.rstrip(")"), fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("processor time, s")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Prints a table, draws a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured()
    print("| what grows | processor time, s |\n|---|---|")
    for name, points in found.items():
        print(f"| {name} | " + ", ".join(f"{size:.3g}: {spent:.1f}" for size, spent in points) + " |")
    if options.figure is not None:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
