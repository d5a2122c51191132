"""`python -m benchmarks [--data BIDS_DIR SUBJECT] [--threads 1] [--output docs/benchmarks.md]`.

Every way of explaining runs alone in a process of its own. Ratios are of processor time, which neighbours on a busy
machine disturb less than wall time, and of memory above that of a process that only loads the scan and the network.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cases import CASES

SAMPLES = 50


def run(case: str, threads: int, data: list[str]) -> dict[str, Any]:
    """Figures of one case from a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.cases", case, str(threads), *data]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, dict[str, Any]], threads: int) -> str:
    """The figures of one scan as Markdown."""
    plain, base = found["straightforward"], found["nothing"]["peak_bytes"]
    mean, most, patient = found["ours mean"], found["ours max"], found["ours patient"]
    lesions, voxels = patient["lesions"], most["voxels"]

    def memory(case: str) -> float:
        return max(found[case]["peak_bytes"] - base, 1) / 2**30

    def per_sample(own: dict[str, Any]) -> float:
        return own["sample_cpu_s"] + (own["fixed_cpu_s"] + own["plan_cpu_s"]) / SAMPLES

    rows = [
        ("one lesion, mean", plain["forward_cpu_s"] + plain["backward_cpu_s"], mean, "ours mean", 15),
        (
            f"one lesion, max over {voxels} voxels",
            plain["forward_cpu_s"] + voxels * plain["backward_cpu_s"], most, "ours max", 30,
        ),
        (
            f"patient of {lesions} lesions, mean",
            plain["forward_cpu_s"] + lesions * plain["backward_cpu_s"], patient, "ours patient", 6,
        ),
    ]  # fmt: skip
    lines = [
        f"### {found['nothing']['scan']}", "",
        "| per noise sample | straightforward, CPU s | ours, CPU s | ratio | aimed at | memory, GiB | of theirs "
        "| GFLOP | of the floor | time in convolutions | of the floor there |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    speed = found["floor"]["gflop_per_s"]
    for name, theirs, own, case, aim in rows:
        spent = per_sample(own)
        lines.append(
            f"| {name} | {theirs:.1f} | {spent:.2f} | {theirs / spent:.0f}x | {aim}x | {memory(case):.2f} | "
            f"{100 * memory(case) / memory('straightforward'):.0f} % | {own['sample_gflop']:.1f} | "
            f"{100 * own['sample_gflop'] / speed / own['sample_cpu_s']:.0f} % | "
            f"{100 * own['convolution_cpu_s'] / own['sample_cpu_s']:.0f} % | "
            f"{100 * own['sample_gflop'] / speed / own['convolution_cpu_s']:.0f} % |"
        )
    lines += [
        "",
        f"Straightforward: one graph over all windows, {memory('straightforward'):.1f} GiB; forward "
        f"{plain['forward_cpu_s']:.1f} s and {plain['backward_cpu_s']:.1f} s per derivative (mean of three), the "
        "columns for max and patient being one forward and as many derivatives. "
        f"Captum's NoiseTunnel(Saliency) around our windowed target: {found['captum']['sample_cpu_s']:.2f} s per sample "
        f"of the mean, {memory('captum'):.1f} GiB. Largest difference of the two maps of the same noise sample: "
        f"{found['difference']['relative']:.1e} of the largest value. "
        f"Floor: a 64 x 64 x 3^3 convolution on 48^3 voxels, {speed:.0f} GFLOP/s with {threads} thread(s).",
        "",
        f"Plan: {mean['plan']} ({mean['strategy']}); {patient['plan']} ({patient['strategy']}).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs=2, metavar=("BIDS_DIR", "SUBJECT"), default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    found = {}
    for case in CASES:
        print(f"{case} ...", file=sys.stderr, flush=True)
        found[case] = run(case, options.threads, list(options.data))
        print(json.dumps(found[case]), file=sys.stderr, flush=True)
    theirs, own = np.load("/tmp/lesionwise-bench.npy"), np.load("/tmp/lesionwise-bench-ours.npy")
    found["difference"] = {"relative": float(np.abs(theirs - own).max() / np.abs(theirs).max())}
    load = os.getloadavg()[0]
    text = table(found, options.threads) + (
        f"torch {torch.__version__}, {os.cpu_count()} cores, load {load:.0f} while measuring"
        f"{' (a loaded machine: trust the ratios, not the seconds)' if load > (os.cpu_count() or 1) else ''}.\n"
    )
    print(text)
    if options.output is not None:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
