"""One way of explaining, run alone in a process of its own, so that its peak memory is its own."""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from benchmarks.scene import Bench, random_scan, real_scan
from lesionwise.attribution import InstanceTarget, SmoothGrad, attribute, plan_attribution
from lesionwise.attribution.engine.draws import Noisy
from lesionwise.attribution.engine.noise import spread
from lesionwise.attribution.engine.scene import Scene
from lesionwise.attribution.sparse.convolutions import Convolutions


def straightforward(bench: Bench, *, backwards: int = 3) -> dict[str, Any]:
    """The whole fused volume through MONAI's inferer, one graph, `backwards` derivatives of it."""
    x = noisy(bench)[None].requires_grad_(True)
    began = Clock()
    fused = sliding_window_inference(
        x, bench.spec.window, 1, bench.network, overlap=bench.spec.overlap, mode="gaussian", sigma_scale=0.125
    )[0]
    y = bench.placement.to_scan.forward(fused[1] - fused[0])
    forward = began.lap()
    i, j, k = np.unique(bench.lesions[0], axis=0).T
    (gradient,) = torch.autograd.grad(y[i, j, k].mean(), x, retain_graph=True)
    times = [began.lap()]
    for voxel in range(backwards - 1):
        torch.autograd.grad(y[i[voxel], j[voxel], k[voxel]], x, retain_graph=True)
        times.append(began.lap())
    np.save(map_path(bench.name, "theirs"), bench.placement.pull_back(gradient[0]).numpy())
    return {
        "forward_cpu_s": forward[0], "forward_wall_s": forward[1],
        "backward_cpu_s": float(np.mean([t[0] for t in times])), "backward_wall_s": float(np.mean([t[1] for t in times])),
    }  # fmt: skip


def captum(bench: Bench, *, samples: int = 2) -> dict[str, Any]:
    """NoiseTunnel(Saliency) around our windowed target: only the windows that meet the lesion."""
    from captum.attr import NoiseTunnel, Saliency

    function = InstanceTarget(bench.network, bench.spec, bench.placement, bench.lesions[0])
    began = Clock()
    NoiseTunnel(Saliency(function)).attribute(
        bench.placement.input.clone().requires_grad_(True), nt_type="smoothgrad", nt_samples=samples,
        nt_samples_batch_size=1, stdevs=0.05, abs=False,
    )  # fmt: skip
    cpu, wall = began.lap()
    return {"sample_cpu_s": cpu / samples, "sample_wall_s": wall / samples}


def ours(bench: Bench, *, reduce: str, lesions: int, rounds: int) -> dict[str, Any]:
    """Instance SmoothGrad. The plan, and the part that does not grow with N, are timed apart.

    A draw's time is what further draws cost; the draws of `rounds` batches are
    taken. The floor is measured before, between and after, so that it sees the same neighbours; the best counts.
    """
    sets = bench.lesions[:lesions]
    speeds = [gflop_per_s()]
    began = Clock()
    full = SmoothGrad(n_samples=50, reduce=reduce, max_voxels=None)
    plan = plan_attribution(bench.network, bench.spec, bench.placement, sets, method=full)
    planned = began.lap()

    def explained(n: int, some: list[np.ndarray] = sets) -> Any:
        method = SmoothGrad(n_samples=n, reduce=reduce, max_voxels=None, antithetic=True if n % 2 == 0 else None)
        return attribute(bench.network, bench.spec, bench.placement, some, method=method, plan=plan)

    if lesions == 1 and reduce == "mean":
        np.save(map_path(bench.name, "ours"), whole(explained(1)[0], bench))
        began.lap()
    # enough calls of every size for each way to have had its turns
    first = 4 * plan.schedule.batch if lesions == 1 and reduce == "mean" else plan.schedule.batch
    explained(first, sets if reduce == "mean" else [sets[0][:12]])
    finding = began.lap()
    few, many = plan.schedule.batch, plan.schedule.batch * (1 + rounds)
    runs = []
    for n in (few, many):
        speeds.append(gflop_per_s())
        with Counted() as counted:
            began.lap()
            explained(n)
            runs.append((began.lap(), counted))
    speeds.append(gflop_per_s())
    each = [(b - a) / (many - few) for a, b in zip(runs[0][0], runs[1][0], strict=True)]
    fixed = [a - e * few for a, e in zip(runs[0][0], each, strict=True)]
    layers = runs[1][1].less(runs[0][1], many - few)
    return {
        "plan": plan.describe(), "strategy": plan.schedule.strategy, "lesions": lesions, "voxels": sum(len(v) for v in sets),
        "batch": plan.schedule.batch, "plan_cpu_s": planned[0],
        "finding_cpu_s": finding[0] if reduce == "max" else max(finding[0] - fixed[0] - first * each[0], 0.0),
        "fixed_cpu_s": fixed[0], "sample_cpu_s": each[0],
        "plan_wall_s": planned[1], "fixed_wall_s": fixed[1], "sample_wall_s": each[1],
        "sample_gflop": sum(flop for _, flop in layers.values()) / 1e9,
        "convolution_cpu_s": sum(s for s, _ in layers.values()),
        "gflop_per_s": max(speeds), "most_gflop_per_s": most_gflop_per_s(),
        "layers": {name: [s, flop / 1e9] for name, (s, flop) in sorted(layers.items(), key=lambda kv: -kv[1][0])},
    }  # fmt: skip


def floor(bench: Bench) -> dict[str, Any]:
    """FLOP/s of one large convolution."""
    return {"gflop_per_s": gflop_per_s()}


def gflop_per_s() -> float:
    """Of a 64 x 64 x 3^3 convolution on 48^3 voxels, the best of five."""
    return of_convolution(64, 48)


def most_gflop_per_s() -> float:
    """The best of large convolutions of several sizes, in either memory layout: near what the processor can do at all."""
    return max(
        of_convolution(channels, size, layout)
        for channels, size in ((64, 48), (128, 32), (256, 16))
        for layout in (torch.contiguous_format, torch.channels_last_3d)
    )


def of_convolution(channels: int, size: int, layout: torch.memory_format = torch.contiguous_format) -> float:
    """GFLOP/s."""
    x = torch.randn(1, channels, size, size, size).contiguous(memory_format=layout)
    w = torch.randn(channels, channels, 3, 3, 3).contiguous(memory_format=layout)
    best = min(timed(lambda: torch.nn.functional.conv3d(x, w, padding=1)) for _ in range(5))
    return 2 * size**3 * w.numel() / best / 1e9


class Counted:
    """Counts the local convolutions that are really run, and the processor time within them, by layer."""

    def __init__(self) -> None:
        self.layers: dict[str, tuple[float, float]] = {}

    def less(self, other: "Counted", draws: int) -> dict[str, tuple[float, float]]:
        """Seconds and FLOP per draw, beyond those of another count."""
        none = (0.0, 0.0)
        return {
            name: ((s - other.layers.get(name, none)[0]) / draws, (f - other.layers.get(name, none)[1]) / draws)
            for name, (s, f) in self.layers.items()
        }

    def __enter__(self) -> "Counted":
        self._before = Convolutions.scatter, Convolutions.gather
        Convolutions.scatter = self._timed("scatter", Convolutions.scatter)  # type: ignore[method-assign]
        Convolutions.gather = self._timed("gather", Convolutions.gather)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Convolutions.scatter, Convolutions.gather = self._before  # type: ignore[method-assign]

    def _timed(self, name: str, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(own: Convolutions, x: Tensor, weight: Tensor, *args: Any) -> Tensor:
            began = time.process_time()
            out = method(own, x, weight, *args)
            spent = time.process_time() - began
            # every weight is used once per voxel of the coarser side: a multiplication and an addition
            coarse = x if name == "scatter" else out
            layer = f"{name} {tuple(weight.shape[:2])}"
            seconds, flop = self.layers.get(layer, (0.0, 0.0))
            flop += 2 * len(coarse) * coarse.shape[2:].numel() * weight.numel()
            self.layers[layer] = (seconds + spent, flop)
            return out

        return run


class Clock:
    """Processor time of this process and wall time, since the last lap."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def lap(self) -> tuple[float, float]:
        """(CPU seconds, wall seconds)."""
        cpu, wall = time.process_time(), time.perf_counter()
        found = cpu - self._cpu, wall - self._wall
        self._cpu, self._wall = cpu, wall
        return found


def map_path(scan: str, whose: str) -> Path:
    """Where a case leaves its map of the first draw."""
    return Path(tempfile.gettempdir()) / f"lesionwise-bench-{scan.replace(' ', '-')}-{whose}.npy"


def noisy(bench: Bench) -> Tensor:
    """The first draw of our noise on the whole volume."""
    placement = bench.placement
    sigma = spread(placement.input[0], placement.head, noise=0.05)
    draws = Noisy(tuple(sigma.tolist()), 1, placement.head)
    out = placement.input[0].clone()
    with Scene.open(torch.nn.Identity(), bench.spec, placement) as scene:
        for w, box in enumerate(scene.grid.boxes):
            out[(slice(None), *box.slices)] = draws.window(scene, 0, w)
    return out


def whole(found: Any, bench: Bench) -> np.ndarray:
    """A map on the whole scan."""
    out = np.zeros((2, *bench.placement.to_scan.target_shape), dtype=np.float32)
    out[(slice(None), *found.box.slices)] = found.data
    return out


def timed(run_fn: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    run_fn()
    return time.process_time() - began


CASES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "nothing": lambda bench: {},
    "floor": floor,
    "straightforward": straightforward,
    "captum": captum,
    "ours mean": lambda bench: ours(bench, reduce="mean", lesions=1, rounds=3),
    "ours max": lambda bench: ours(bench, reduce="max", lesions=1, rounds=1),
    "ours patient": lambda bench: ours(bench, reduce="mean", lesions=25, rounds=1),
}


def main(case: str, threads: str, folder: str = "", subject: str = "") -> None:
    """Runs one case and prints its figures as JSON."""
    torch.set_num_threads(int(threads))
    bench = real_scan(Path(folder), subject) if folder else random_scan()
    figures = CASES[case](bench)
    figures["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures["scan"] = bench.name
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
