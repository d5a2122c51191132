"""How scans with and without their skull differ, and how often extractions cut the brain: the figures of docs/inputs.md.

python scripts/measure_heads.py BIDS_DIR [BIDS_DIR ...]
"""

import sys
from pathlib import Path

import numpy as np

from lesionwise.geometry.head import ALIKE, MOST_BRIGHT, MOST_DARK, bright_edge, dark_gap, signal_of
from lesionwise.geometry.volume import Volume
from lesionwise.io.bids import find_scans
from lesionwise.io.cases import read_channels

CHANNELS = ("FLAIR", "T1w")


def main(folders: list[str]) -> None:
    """One line per scan."""
    print("| scan | dark gap, both | FLAIR alone | T1w alone | called | signal overlap (Dice) | bright edge | said |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in folders:
        for scan in find_scans(Path(folder), channels=CHANNELS).scans:
            read = read_channels(scan.images, resample=True, notes=[])
            image = Volume(np.stack(read.arrays), read.first.affine, CHANNELS)
            alone = [
                dark_gap(Volume(image.data[n : n + 1], image.affine, (name,))) for n, name in enumerate(image.channels)
            ]
            gap = float(np.mean(alone))
            first, second = signal_of(image)
            dice = 2 * int((first & second).sum()) / (int(first.sum()) + int(second.sum()))
            edge = bright_edge(first | second, image)
            said = [word for word, true in (("heads differ", dice < ALIKE), ("cut", edge > MOST_BRIGHT)) if true]
            called = "skull" if gap > MOST_DARK else "brain"
            print(
                f"| {scan.name.stem} | {gap:.3f} | {alone[0]:.3f} | {alone[1]:.3f} | {called} | {dice:.3f} | {edge:.3f} | "
                f"{', '.join(said) or '-'} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
