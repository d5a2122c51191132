"""Judges weights of the built-in network: on synthetic patients (threshold, smallest lesion) or on real scans.

    python scripts/judge_builtin.py choose WEIGHTS.safetensors --patients 12 --first 900000
    python scripts/judge_builtin.py reach WEIGHTS.safetensors                                # effective receptive field
    python scripts/judge_builtin.py scans WEIGHTS.safetensors BIDS_DIR --threshold 0.5 --min-size 6

`choose` alone may set anything; `scans` only reports.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import UNet
from safetensors.torch import load_file
from train_builtin import NETWORK

from lesionwise.geometry.box import Box
from lesionwise.geometry.head import find_head
from lesionwise.geometry.volume import Case
from lesionwise.instances.components import label_components
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.metrics import dice, lesion_counts, normalised_dice
from lesionwise.phantom import synthesise
from lesionwise.segmenter import Segmenter, Spec
from lesionwise.windows import WindowGrid, predict, probability

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SIZES = (6, 9, 12)
HIGHEST_FDR = 0.2
"""The operating point has the best nDSC among those below this lesion FDR on synthetic patients: real scans hold more that looks
like a lesion than synthetic ones do, so precision is bought where it is cheap."""


def load(path: Path) -> Segmenter:
    """The network with these weights, as the package will run it."""
    network = UNet(**NETWORK)
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return Segmenter(network.eval(), Spec("trial", ("FLAIR", "T1w"), (96, 96, 96)))


def held_out(seed: int) -> Case:
    """A synthetic patient as a scan: the head is found from the images, as with a real one."""
    phantom = synthesise(seed)
    return Case(phantom.image, find_head(phantom.image), phantom.reference)


def probabilities(model: Segmenter, case: Case) -> np.ndarray:
    """Lesion probability on the scan's grid."""
    placement = model.place(case)
    logits = predict(model.network, placement.input, WindowGrid.of(model.spec, tuple(placement.input.shape[2:])))
    return probability(placement.to_scan.forward(logits), model.spec).numpy()


def without_small(mask: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """The mask without components below `least` voxels, and the labels of all its components."""
    labels = label_components(mask)
    return mask & (np.bincount(labels.ravel()) >= least)[labels], labels


def measure(p: np.ndarray, reference: np.ndarray, threshold: float, least: int, box: Box) -> dict[str, float]:
    """Dice, nDSC and lesion rates of one scan; lesions are sought inside `box` only, which holds the head."""
    mask = np.zeros_like(reference)
    mask[box.slices], labels = without_small(p[box.slices] > threshold, least)
    if (
        least > 6
    ):  # METHOD section 1 matches first and then drops what has at most 5 voxels; what the model drops is gone
        labels = label_components(mask[box.slices])
    counts = lesion_counts(labels, label_components(reference[box.slices]))
    return {
        "dice": dice(mask, reference),
        "ndsc": normalised_dice(mask, reference),
        "tpr": counts.tpr,
        "fdr": counts.fdr,
        "predicted": counts.predicted,
        "reference": counts.reference,
        "ml": float(mask.sum()) / 1000,
        "reference_ml": float(reference.sum()) / 1000,
    }


def choose(arguments) -> None:
    """Mean nDSC and lesion F1 over held-out synthetic patients for each threshold and smallest lesion."""
    model = load(arguments.weights)
    table: dict[tuple[float, int], list] = {}
    bins, hits = np.zeros((10, 2)), 0
    for seed in range(arguments.first, arguments.first + arguments.patients):
        case = held_out(seed)
        reference, box = case.reference, Box.around(np.argwhere(case.head))
        p = probabilities(model, case)
        where = np.digitize(p[case.head], np.linspace(0, 1, 11)[1:-1])
        bins += np.stack([np.bincount(where, p[case.head], 10), np.bincount(where, reference[case.head], 10)], 1)
        hits = hits + np.bincount(where, minlength=10)
        for threshold in THRESHOLDS:
            for least in SIZES:
                table.setdefault((float(threshold), least), []).append(measure(p, reference, threshold, least, box))
    rows = []
    for (threshold, least), found in table.items():
        mean = {k: float(np.nanmean([f[k] for f in found])) for k in ("dice", "ndsc", "tpr", "fdr")}
        f1 = 2 * mean["tpr"] * (1 - mean["fdr"]) / max(mean["tpr"] + 1 - mean["fdr"], 1e-9)
        rows.append({"threshold": threshold, "min_size": least, **mean, "f1": f1})
    for row in rows:
        print(json.dumps({k: round(v, 3) for k, v in row.items()}))
    allowed = [r for r in rows if r["fdr"] <= HIGHEST_FDR] or [min(rows, key=lambda r: r["fdr"])]
    print("chosen", json.dumps({k: round(v, 3) for k, v in max(allowed, key=lambda r: r["ndsc"]).items()}))
    print("calibration: predicted, observed, voxels")
    for (predicted, observed), n in zip(bins, hits, strict=True):
        print(f"  {predicted / max(n, 1):.3f} {observed / max(n, 1):.3f} {n}")


def reach(arguments) -> None:
    """Effective receptive field: radius that holds half and 95 % of the gradient's magnitude, over lesion voxels."""
    model = load(arguments.weights)
    rng = np.random.default_rng(0)
    shells = np.zeros(80)
    for seed in range(arguments.first, arguments.first + 3):
        case = held_out(seed)
        placement = model.place(case)
        inner = np.argwhere(case.reference[48:-48, 48:-48, 48:-48]) + 48
        for centre in inner[rng.integers(len(inner), size=8)]:
            cut = tuple(slice(int(c) - 48, int(c) + 48) for c in centre)
            x = placement.input[(slice(None), slice(None), *cut)].clone().requires_grad_()
            logits = model.network(x)[0, :, 48, 48, 48]
            (logits[1] - logits[0]).backward()
            g = x.grad.abs().sum((0, 1)).numpy()
            distance = np.sqrt(sum((np.indices(g.shape)[k] - 48.0) ** 2 for k in range(3)))
            shells += np.bincount(distance.astype(int).ravel(), g.ravel() / g.sum(), 100)[:80]
    share = np.cumsum(shells) / shells.sum()
    for part in (0.5, 0.8, 0.95):
        print(f"{part:.0%} of the gradient within {int(np.searchsorted(share, part)) + 1} mm")


def scans(arguments) -> None:
    """One line per real scan, then means over patients."""
    model = load(arguments.weights)
    per_patient: dict[str, list] = {}
    for scan in find_scans(arguments.bids, channels=("FLAIR", "T1w")).scans:
        case = read_case(scan.images, reference=scan.reference, name=scan.name)
        began = time.monotonic()
        p = probabilities(model, case)
        found = measure(p, case.reference, arguments.threshold, arguments.min_size, Box.around(np.argwhere(case.head)))
        print(
            scan.name.stem, json.dumps({k: round(v, 3) for k, v in found.items()}), f"{time.monotonic() - began:.1f} s"
        )
        per_patient.setdefault(scan.name.subject, []).append(found)
    means = {s: {k: np.nanmean([f[k] for f in rows]) for k in rows[0]} for s, rows in per_patient.items()}
    for subject, row in means.items():
        print(subject, json.dumps({k: round(float(v), 3) for k, v in row.items()}))
    overall = {k: round(float(np.nanmean([m[k] for m in means.values()])), 3) for k in ("dice", "ndsc", "tpr", "fdr")}
    print("patients", json.dumps(overall))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["choose", "reach", "scans"])
    parser.add_argument("weights", type=Path)
    parser.add_argument("bids", type=Path, nargs="?")
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--first", type=int, default=900_000)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--min-size", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    {"choose": choose, "reach": reach, "scans": scans}[arguments.stage](arguments)


if __name__ == "__main__":
    main()
