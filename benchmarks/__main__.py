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

from benchmarks.cases import CASES, map_path

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
        return own["sample_cpu_s"] + (own["fixed_cpu_s"] + own["finding_cpu_s"] + own["plan_cpu_s"]) / SAMPLES

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
        "| GFLOP | of the floor | time in convolutions | of the floor there | of the best there |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, theirs, own, case, aim in rows:
        spent, flop, speed = per_sample(own), own["sample_gflop"], own["gflop_per_s"]
        lines.append(
            f"| {name} | {theirs:.1f} | {spent:.2f} | {theirs / spent:.0f}x | {aim}x | {memory(case):.2f} | "
            f"{100 * memory(case) / memory('straightforward'):.0f} % | {flop:.1f} | "
            f"{100 * flop / speed / own['sample_cpu_s']:.0f} % | "
            f"{100 * own['convolution_cpu_s'] / own['sample_cpu_s']:.0f} % | "
            f"{100 * flop / speed / own['convolution_cpu_s']:.0f} % | "
            f"{100 * flop / own['most_gflop_per_s'] / own['convolution_cpu_s']:.0f} % |"
        )
    lines += [
        "",
        f"Straightforward: one graph over all windows, {memory('straightforward'):.1f} GiB; forward "
        f"{plain['forward_cpu_s']:.1f} s and {plain['backward_cpu_s']:.1f} s per derivative (mean of three), the "
        "columns for max and patient being one forward and as many derivatives. "
        f"Captum's NoiseTunnel(Saliency) around our windowed target: {found['captum']['sample_cpu_s']:.2f} s per sample "
        f"of the mean, {memory('captum'):.1f} GiB. Largest difference of the two maps of the same noise sample: "
        f"{found['difference']['relative']:.1e} of the largest value. "
        f"Floor: a 64 x 64 x 3^3 convolution on 48^3 voxels, {mean['gflop_per_s']:.0f} GFLOP/s with {threads} thread(s); the "
        f"best of six large convolutions reaches {mean['most_gflop_per_s']:.0f}.",
        "",
        *by_layer(mean, most, patient),
        f"Plan: {mean['plan']} ({mean['strategy']}); {patient['plan']} ({patient['strategy']}).",
        "",
    ]
    return "\n".join(lines)


def by_layer(*rows: dict[str, Any]) -> list[str]:
    """Share of the floor of every kind of convolution, and its time per draw, as Markdown."""
    names = [name for name in rows[0]["layers"] if any(row["layers"].get(name, (0, 0))[1] for row in rows)]
    lines = ["| convolution (weights) | mean: ms, of the floor | max | patient |", "|---|---|---|---|"]
    for name in names:
        cells = []
        for row in rows:
            seconds, gflop = row["layers"].get(name, (0.0, 0.0))
            share = f"{1e3 * seconds:.1f}, {100 * gflop / row['gflop_per_s'] / seconds:.0f} %" if seconds > 0 else "-"
            cells.append(share)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


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
    theirs, own = (np.load(map_path(found["nothing"]["scan"], whose)) for whose in ("theirs", "ours"))
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
