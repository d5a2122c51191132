"""One way of explaining, run alone in a process of its own, so that its peak memory is its own."""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.scene import Bench, random_scan, real_scan
from lesionwise.attribution import InstanceTarget, SmoothGrad, attribute, plan_attribution
from lesionwise.attribution.draws import Noisy
from lesionwise.attribution.local import LocalCotangent
from lesionwise.attribution.noise import spread
from lesionwise.attribution.scene import Scene


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
    np.save("/tmp/lesionwise-bench.npy", bench.placement.pull_back(gradient[0]).numpy())
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


def ours(bench: Bench, *, reduce: str, lesions: int, samples: int) -> dict[str, Any]:
    """Instance SmoothGrad. The plan, and the part that does not grow with N, are timed apart."""
    sets = bench.lesions[:lesions]
    began = Clock()
    full = SmoothGrad(n_samples=50, reduce=reduce, max_voxels=None)
    plan = plan_attribution(bench.network, bench.spec, bench.placement, sets, method=full)
    planned = began.lap()
    runs, flops, inside = [], [], []
    for n in (1, samples)[: 1 if samples == 1 else 2]:
        method = SmoothGrad(n_samples=n, reduce=reduce, max_voxels=None)
        with Flops() as counter:
            found = attribute(bench.network, bench.spec, bench.placement, sets, method=method, plan=plan)
        runs.append(began.lap())
        flops.append(counter.total)
        inside.append(counter.seconds)
        if n == 1 and lesions == 1 and reduce == "mean":
            np.save("/tmp/lesionwise-bench-ours.npy", whole(found[0], bench))
    if samples == 1:  # the first draw, which also learns what matters, stands for all
        each, fixed, work, convolving = list(runs[0]), [0.0, 0.0], float(flops[0]), inside[0]
    else:
        each = [(b - a) / (samples - 1) for a, b in zip(runs[0], runs[1], strict=True)]
        fixed = [a - e for a, e in zip(runs[0], each, strict=True)]
        work, convolving = (flops[1] - flops[0]) / (samples - 1), (inside[1] - inside[0]) / (samples - 1)
    voxels = sum(len(v) for v in sets)
    return {
        "plan": plan.describe(), "strategy": plan.strategy, "lesions": lesions, "voxels": voxels,
        "plan_cpu_s": planned[0], "fixed_cpu_s": fixed[0], "sample_cpu_s": each[0],
        "plan_wall_s": planned[1], "fixed_wall_s": fixed[1], "sample_wall_s": each[1],
        "sample_gflop": work / 1e9, "convolution_cpu_s": convolving,
    }  # fmt: skip


def floor(bench: Bench) -> dict[str, Any]:
    """FLOP/s of one large convolution, the best of five."""
    x, w = torch.randn(1, 64, 48, 48, 48), torch.randn(64, 64, 3, 3, 3)
    best = min(timed(lambda: torch.nn.functional.conv3d(x, w, padding=1)) for _ in range(5))
    return {"gflop_per_s": 2 * 48**3 * 64 * 64 * 27 / best / 1e9}


class Flops(TorchDispatchMode):
    """Counts the convolutions that are really run, local ones by their own size, and the processor time within them."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if any(isinstance(x, LocalCotangent) for x in args):
            with self:  # count what its rule runs instead
                return LocalCotangent.__torch_dispatch__(func, types, args, kwargs)
        began = time.process_time()
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            self.seconds += time.process_time() - began
        if func is torch.ops.aten.convolution.default:
            self._count(args[0] if args[6] else out, args[1])
        elif func is torch.ops.aten.convolution_backward.default:  # with respect to the input alone
            self._count(args[1] if args[7] else args[0], args[2])
        return out

    def _count(self, coarse: Tensor, weight: Tensor) -> None:
        """Every weight is used once per voxel of the coarser side: a multiplication and an addition."""
        self.total += 2 * len(coarse) * coarse.shape[2:].numel() * weight.numel()


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
    "ours mean": lambda bench: ours(bench, reduce="mean", lesions=1, samples=6),
    "ours max": lambda bench: ours(bench, reduce="max", lesions=1, samples=1),
    "ours patient": lambda bench: ours(bench, reduce="mean", lesions=25, samples=2),
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
