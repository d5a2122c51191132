"""Three lesions of a synthetic patient and what would have changed the built-in network's mind: docs/images/why.png.

    python scripts/why_figure.py [--seed 5] [--out docs/images/why.png]

For a found, a missed and an invented lesion: the scan on FLAIR, the same scan turned until the decision flips, and what
the network then predicts (contour), each cut through the lesion's middle.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch

from lesionwise.asking.scan import Scan
from lesionwise.attribution import Gradient
from lesionwise.geometry.box import Box
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.models.zoo import load_model
from lesionwise.phantom import write_phantoms
from lesionwise.units import Settings, find_case
from lesionwise.why.lesions import Effort, dials_of, row_of, why_lesion
from lesionwise.why.margin import flipped_input
from lesionwise.why.question import Question
from lesionwise.windows import predict, probability_on_scan

matplotlib.use("agg")
from matplotlib import pyplot as plt

REACH_VOX = 14
KINDS = (("TP", "found"), ("FN", "missed"), ("FP", "invented"))


def main() -> None:
    """Draws the figure and prints the rows of its lesions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--lesions", type=int, default=20)
    parser.add_argument("--size", default="small")
    parser.add_argument("--evaluations", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/images/why.png"))
    given = parser.parse_args()
    torch.manual_seed(0)
    for seed in range(given.seed, given.seed + 10):  # the first patient who has a lesion of each kind
        scan = synthetic(seed, given.lesions, given.size)
        chosen = [one for kind, _ in KINDS if (one := middle(scan, kind)) is not None]
        print(f"seed {seed}: {[one.outcome for one in chosen]}", flush=True)
        if len(chosen) == len(KINDS):
            break
    figure, axes = plt.subplots(len(chosen), 2, figsize=(7, 3.3 * len(chosen)), squeeze=False)
    for row, instance in zip(axes, chosen, strict=True):
        why = why_lesion(scan, instance, effort=Effort(given.evaluations))
        told = {k: v for k, v in row_of(why, scan.channels).items() if v is not None and v == v}
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in told.items()})
        question = Question.about(scan, instance)
        dials = {dial.name: dial for dial in dials_of(question)}
        name = next((n for n in ("FLAIR", "all", "size") if why.margins[n].has_flip), "all")
        margin = why.margins[name]
        changed = flipped_input(dials[name], margin)
        words = dict(KINDS)[str(instance.outcome)]
        t = f"{margin.flips:.2f}" + (" mm" if name == "size" else " x its contrast")
        draw(row[0], scan, instance, None, f"{words}: lesion {instance.label}, {instance.volume_mm3:.0f} mm³")
        title = "no flip within the range" if changed is None else f"{name}: {t}"
        draw(row[1], scan, instance, None if changed is None else (question, changed), title)
    figure.tight_layout()
    figure.savefig(given.out, dpi=110)


def synthetic(seed: int, lesions: int, size: str) -> Scan:
    """A synthetic patient before the built-in network."""
    model = load_model("builtin")
    with tempfile.TemporaryDirectory() as folder:
        write_phantoms(Path(folder), subjects=1, seed=seed, size=size, n_lesions=lesions)
        found = find_scans(Path(folder), channels=model.spec.channels).scans[0]
        case = read_case(found.images, reference=found.reference, name=found.name)
    used, _, explained = find_case(model, case, Settings(method=Gradient()))
    return Scan(used, explained)


def middle(scan: Scan, outcome: str):
    """The lesion of middle size among those of an outcome; None if there is none."""
    found = sorted((one for one in scan.instances if one.outcome == outcome), key=lambda one: one.n_voxels)
    return found[len(found) // 2] if found else None


def draw(axis, scan: Scan, instance, change, title: str) -> None:
    """FLAIR around a lesion, with the outline of the lesion and of what is predicted."""
    image = scan.placement.input.clone()
    if change is not None:
        question, changed = change
        image[0][(slice(None), *question.probe.box.slices)] = changed
    grid = scan.grid
    box = Box.around(instance.voxels, margin=REACH_VOX, shape=scan.case.image.shape)
    logits = predict(scan.model.network, image, grid, only=grid.meeting(box)) if change is not None else None
    p = scan.explained.prediction
    if logits is not None:
        p = probability_on_scan(logits, scan.placement, scan.model.spec).numpy()
    shown = scan.placement.to_scan.forward(image[0][scan.channels.index("FLAIR")]).numpy()
    k = int(np.round(instance.voxels[:, 2].mean()))
    plane = (box.slices[0], box.slices[1], k)
    axis.imshow(shown[plane].T, origin="lower", cmap="gray", vmin=-2, vmax=3)
    omega = instance.mask(scan.case.image.shape)
    for mask, colour, style in ((omega, "#56B4E9", "dotted"), (p > scan.threshold, "#E69F00", "solid")):
        if mask[plane].any():
            axis.contour(mask[plane].T.astype(float), levels=[0.5], colors=colour, linestyles=style, linewidths=1.4)
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


if __name__ == "__main__":
    main()
