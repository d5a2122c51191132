"""Draws docs/images/phantom.png: six synthetic patients beside tissue statistics of synthetic and real ones.

    python scripts/phantom_figure.py BIDS_DIR docs/images/phantom.png

BIDS_DIR holds real scans in MNI space; only medians and spreads per tissue are taken from them, no image.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

from lesionwise.geometry.head import find_head
from lesionwise.geometry.volume import Case
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_case
from lesionwise.phantom import Phantom, synthesise
from lesionwise.phantom.templates import MAP_ORIGIN_MM, mni_templates
from lesionwise.segmenter import zscore

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SEEDS = (0, 1, 2, 3, 4, 6)
TISSUES = ("white", "grey", "lesion")


def statistics(z: np.ndarray, tissue: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Median and half the 16-84 % range of each tissue, in SD of the head."""
    values = {name: z[mask] for name, mask in tissue.items() if mask.any()}
    return {
        name: (float(np.median(v)), float(np.percentile(v, 84) - np.percentile(v, 16)) / 2)
        for name, v in values.items()
    }


def of_phantom(phantom: Phantom) -> list[dict[str, tuple[float, float]]]:
    """One entry per channel."""
    z = zscore(phantom.image.data, find_head(phantom.image))
    far = ~phantom.reference
    tissue = {"white": (phantom.tissue == 3) & far, "grey": (phantom.tissue == 2) & far, "lesion": phantom.reference}
    return [statistics(channel, tissue) for channel in z]


def of_scan(case: Case) -> list[dict[str, tuple[float, float]]]:
    """One entry per channel; tissue where the template is sure of it."""
    z = zscore(case.image.data, case.head)
    templates = mni_templates()
    voxels = np.argwhere(case.head)
    world = voxels @ case.image.affine[:3, :3].T + case.image.affine[:3, 3]
    there = np.round(world - MAP_ORIGIN_MM).astype(int)
    there = np.clip(there, 0, np.array(templates.maps.shape[1:]) - 1)
    grey, white = (templates.maps[(k, *there.T)] for k in range(2))
    lesion = case.reference[tuple(voxels.T)]
    tissue = {"white": (white > 0.9) & ~lesion, "grey": (grey > 0.9) & ~lesion, "lesion": lesion}
    return [statistics(channel[tuple(voxels.T)], tissue) for channel in z]


def main() -> None:
    """Reads the command line."""
    bids, target = Path(sys.argv[1]), Path(sys.argv[2])
    figure = plt.figure(figsize=(15, 7.2))
    grid = figure.add_gridspec(2, 5, width_ratios=(1, 1, 1, 0.15, 1.5), wspace=0.04, hspace=0.2)
    synthetic = []
    for n, seed in enumerate(SEEDS):
        phantom = synthesise(seed)
        synthetic.append(of_phantom(phantom))
        flair, t1w = phantom.image.data
        k = int(np.argmax(phantom.reference[:, :, 80:110].sum((0, 1)))) + 80
        half = flair.shape[0] // 2
        both = [x[18:164, 20:200, k] / np.percentile(x[phantom.head], 99.5) for x in (flair, t1w)]
        mask = phantom.reference[18:164, 20:200, k]
        axes = figure.add_subplot(grid[n // 3, n % 3])
        cut = half - 18
        picture = np.concatenate([both[0][:cut], both[1][cut:]])  # FLAIR left, T1w right
        axes.imshow(picture.T, cmap="gray", origin="lower", vmin=0, vmax=1)
        if mask.any():
            axes.contour(mask.T, [0.5], colors="#d95f02", linewidths=0.7)
        axes.set_title(f"seed {seed}: FLAIR | T1w, {phantom.reference.sum() / 1000:.1f} ml", fontsize=9)
        axes.axis("off")
    scans = find_scans(bids, channels=("FLAIR", "T1w")).scans
    real = {s.name.stem: of_scan(read_case(s.images, reference=s.reference, name=s.name)) for s in scans}
    for row, channel in enumerate(("FLAIR", "T1w")):
        axes = figure.add_subplot(grid[row, 4])
        for t, name in enumerate(TISSUES):
            for k, found in enumerate(synthetic):
                axes.errorbar(t - 0.3 + 0.05 * k, *found[row][name], fmt="o", ms=4, color="#1b6ca8", lw=1)
            for k, found in enumerate(real.values()):
                axes.errorbar(t + 0.08 + 0.05 * k, *found[row][name], fmt="s", ms=4, color="#d95f02", lw=1)
        axes.set_xticks(range(3), TISSUES)
        axes.set_ylabel(f"{channel}, SD of the head")
        axes.spines[["top", "right"]].set_visible(False)
        if row == 0:
            axes.set_title("synthetic (blue) and real (orange): median, 16-84 %", fontsize=9)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=80, bbox_inches="tight")
    for name, found in real.items():
        print(name, [{k: tuple(round(x, 2) for x in v) for k, v in c.items()} for c in found])
    for seed, found in zip(SEEDS, synthetic, strict=True):
        print(seed, [{k: tuple(round(x, 2) for x in v) for k, v in c.items()} for c in found])


if __name__ == "__main__":
    main()
