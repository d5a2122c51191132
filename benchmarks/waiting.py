"""What it costs that OpenMP's idle threads spin, beside other work: the figures of docs/scale.md, section Waiting.

    python -m benchmarks.waiting [--busy 2] [--repeats 3]

Six convolutions forward and backward with two threads, with sleeping and with spinning threads in turn, while `--busy`
processes compute beside them.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

import torch
from torch import nn

CASES = {"forty boxes of 12^3": (40, 12), "one box of 48^3": (1, 48)}


def compute(boxes: int, side: int) -> tuple[float, float]:
    """Wall and processor seconds of one case in this process."""
    torch.set_num_threads(2)
    layers = nn.Sequential(*(nn.Conv3d(16, 16, 3, padding=1) for _ in range(6)))
    x = torch.randn(1, 16, side, side, side)
    layers(x).sum().backward()
    used, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for _ in range(boxes):
        layers(x).sum().backward()
    now = resource.getrusage(resource.RUSAGE_SELF)
    processor = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return time.perf_counter() - began, processor


def measured(case: str, policy: str) -> tuple[float, float]:
    """The same in a process of its own with this waiting policy."""
    command = [sys.executable, "-m", "benchmarks.waiting", "--case", case]
    told = subprocess.run(command, env={**os.environ, "OMP_WAIT_POLICY": policy}, capture_output=True, check=True)
    wall, processor = told.stdout.split()
    return float(wall), float(processor)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=2, help="processes that compute beside it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(*compute(*CASES[given.case]))
        return
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(given.busy)]
    try:
        print("| case | threads | wall, s | processor, s |\n|---|---|---|---|")
        for case in CASES:
            found: dict[str, list[tuple[float, float]]] = {"passive": [], "active": []}
            for _ in range(given.repeats):
                for policy, rows in found.items():
                    rows.append(measured(case, policy))
            for policy, rows in found.items():
                (low, used_low), (high, used_high) = (
                    [fn(column) for column in zip(*rows, strict=True)] for fn in (min, max)
                )
                name = {"passive": "sleeping", "active": "spinning"}[policy]
                print(f"| {case} | {name} | {low:.1f} to {high:.1f} | {used_low:.1f} to {used_high:.1f} |", flush=True)
    finally:
        for process in beside:
            process.terminate()


if __name__ == "__main__":
    main()
