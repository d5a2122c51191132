"""How well registration and brain extraction do where the truth is known: docs/prepare.md shows what this prints.

python scripts/prepare_accuracy.py --starts 50        # a synthetic head, T1w moved by up to 15 mm and 15 degrees
python scripts/prepare_accuracy.py --bids DIR         # brain-extracted scans: deepbet's mask against theirs
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from lesionwise.geometry.affine import to_mm
from lesionwise.geometry.head import find_head, head_notes
from lesionwise.geometry.volume import Volume
from lesionwise.io.bids import find_scans
from lesionwise.metrics import dice
from lesionwise.phantom.patient import synthesise
from lesionwise.phantom.skull import PAD_VOX, with_skull
from lesionwise.prepare.doubts import judge, measure_brain
from lesionwise.prepare.extraction import EXTRACTIONS
from lesionwise.prepare.recognition import stripped_brain, whole_head
from lesionwise.prepare.registration import register
from lesionwise.prepare.unit import read_channel


def thick(data: np.ndarray, affine: np.ndarray, *, every: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Slices of 1 mm averaged by `every`, from `first` on, and their affine."""
    count = (data.shape[2] - first) // every
    kept = data[:, :, first : first + count * every]
    placed = affine.copy()
    placed[:3, 3] += affine[:3, 2] * (first + (every - 1) / 2)
    placed[:3, 2] *= every
    return kept.reshape(*data.shape[:2], count, every).mean(axis=3).astype(np.float32), placed


def random_motion(rng: np.random.Generator, about: np.ndarray) -> np.ndarray:
    """Up to 15 mm along and 15 degrees about each axis."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-15, 15, 3), degrees=True).as_matrix()
    matrix[:3, 3] = about + rng.uniform(-15, 15, 3) - matrix[:3, :3] @ about
    return matrix


def registration(starts: int, patient: int) -> None:
    """Prints the largest error at the brain's surface of every start, and how many stay below 1 mm."""
    phantom = synthesise(patient)
    head = with_skull(phantom, seed=patient)
    flair, flair_affine = thick(head.channel("FLAIR"), head.affine, every=3, first=0)
    t1w, t1w_affine = thick(head.channel("T1w"), head.affine, every=3, first=1)
    brain = thick(np.pad(phantom.head, PAD_VOX).astype(np.float32), head.affine, every=3, first=0)[0] > 0.5
    fixed = Volume(flair[None], flair_affine, ("FLAIR",))
    points = to_mm(np.argwhere(brain & ~ndimage.binary_erosion(brain)), flair_affine)
    rng = np.random.default_rng(20)
    errors = []
    for start in range(starts):
        true = random_motion(rng, np.array([0.0, -20.0, 10.0]))
        began = time.process_time()
        moving = Volume(t1w[None], true @ t1w_affine, ("T1w",))
        rigid = register(fixed, moving, head=whole_head(fixed), brain=brain)
        error = np.linalg.norm(to_mm(points, rigid.matrix) - to_mm(points, true), axis=1)
        errors.append(error.max())
        moved = np.linalg.norm(to_mm(points, true) - points, axis=1).max()
        print(
            f"start {start}: moved {moved:.1f} mm, error mean {error.mean():.2f} max {error.max():.2f} mm, "
            f"information {rigid.information_after:.3f}, mirrored {rigid.information_mirrored:.3f}, "
            f"{time.process_time() - began:.1f} s of processor",
            flush=True,
        )
    print(
        f"{starts} starts: {np.mean(np.array(errors) < 1):.0%} within 1 mm; median {np.median(errors):.2f}, "
        f"largest {np.max(errors):.2f} mm"
    )


def spoken_against(volume: Volume, given: np.ndarray) -> list[str]:
    """What the package would say against a delivered brain mask, by its size and shape alone."""
    measures = measure_brain(given, volume.affine) | {"brain_cut": 0.0}  # where the scan ends is not the mask's doing
    return [doubt.sentence for doubt in judge(measures).doubts]


def extraction(bids_dir: Path) -> None:
    """Prints the Dice of deepbet's mask on T1w, and on FLAIR, against the brain that the scans were delivered with.

    A delivered mask counts as good if the package itself has nothing to say against it, which is told before deepbet is
    asked: the two channels were cut alike, tissue does not reach the edge, and volume and shape raise no doubt.
    """
    good, others = [], []
    for scan in find_scans(bids_dir, channels=("FLAIR", "T1w")).scans:
        channels = {name: read_channel(path, name) for name, path in scan.images.items()}
        image = Volume(np.concatenate([v.data for v in channels.values()]), channels["FLAIR"].affine, tuple(channels))
        notes = head_notes(find_head(image), image, given=False)
        for name, volume in channels.items():
            given = stripped_brain(volume)
            if given is None:
                print(f"{scan.name.stem} {name}: holds more than a brain, passed over", flush=True)
                continue
            against = [*notes, *spoken_against(volume, given)]
            found = EXTRACTIONS["deepbet"](volume)
            litres = [float(mask.sum()) * volume.voxel_volume_mm3 / 1e6 for mask in (given, found)]
            overlap = dice(found, given)
            (others if against else good).append(overlap)
            print(
                f"{scan.name.stem} {name}: Dice {overlap:.3f}, delivered {litres[0]:.2f} l, found {litres[1]:.2f} l; "
                f"{'delivered mask not good: ' + ' '.join(against) if against else 'good'}",
                flush=True,
            )
    for what, overlaps in (("good", good), ("other", others)):
        if overlaps:
            print(
                f"{len(overlaps)} {what} delivered masks: Dice median {np.median(overlaps):.3f}, least {min(overlaps):.3f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=0)
    parser.add_argument("--patient", type=int, default=3)
    parser.add_argument("--bids", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.starts:
        registration(given.starts, given.patient)
    if given.bids:
        extraction(given.bids)
