"""Which way of a convolution is fastest for which layer and box: what the rules in `sparse/convolutions.py` rest on.

`python -m benchmarks.ways`: milliseconds of processor time, one thread, four items of n^3 voxels.
"""

import time

import torch

from lesionwise.attribution.sparse.convolutions import Convolutions, gathering_way, scattering_way

LAYERS = (
    (2, 64, 1, 1), (32, 2, 3, 2), (16, 2, 3, 1), (32, 32, 3, 1), (64, 32, 3, 2), (128, 64, 3, 1), (256, 128, 3, 1),
    (128, 768, 3, 2), (320, 320, 3, 1), (512, 256, 3, 1), (64, 128, 2, 2),
)  # fmt: skip
"""Channels of the weights' first and second axis, kernel, stride."""


def main() -> None:
    """Prints a table in Markdown."""
    torch.set_num_threads(1)
    print("| convolution | n | plain | channels-last | matrix | rule |\n|---|---|---|---|---|---|")
    for kind in ("scatter", "gather"):
        for first, second, kernel, stride in LAYERS:
            for n in (2, 4, 8, 16):
                if first * second * kernel**3 * n**3 < 1.2e10:
                    print(row(kind, first, second, kernel, stride, n), flush=True)


def row(kind: str, first: int, second: int, kernel: int, stride: int, n: int) -> str:
    """One layer and one size of box by every way."""
    weight = torch.randn(first, second, kernel, kernel, kernel)
    size = n if kind == "scatter" else (n - 1) * stride + kernel
    x = torch.randn(4, first if kind == "scatter" else second, size, size, size)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    found = []
    for way in ("plain", "channels-last", "matrix"):
        run_fn = getattr(Convolutions(frozenset([weight.data_ptr()]), way), kind)  # type: ignore[arg-type]
        times = []
        for _ in range(3):
            began = time.thread_time()
            run_fn(x, weight, [stride] * 3, [1] * 3, 1)
            times.append(time.thread_time() - began)
        found.append(f"{1000 * min(times[1:]):.2f}")
    rule = (scattering_way if kind == "scatter" else gathering_way)(weight, 4 * n**3)
    return f"| {kind} ({first}, {second}) {kernel}^3 by {stride} | {n} | {' | '.join(found)} | {rule} |"


if __name__ == "__main__":
    main()
