"""From scans to training patches: prepared once on disk, drawn and augmented as a function of (seed, epoch, number)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandAffined, RandFlipd, RandRotate90d, RandScaleIntensityd, RandShiftIntensityd
from torch import Tensor
from torch.utils.data import Dataset

from lesionwise.errors import InputError
from lesionwise.io.bids import BidsScan, find_scans
from lesionwise.io.cases import read_case
from lesionwise.io.files import write_text, write_whole
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.train.recipe import Recipe

ProgressFn = Callable[[str, int, int], None]


def scans_of(bids_dir: Path, recipe: Recipe, *, participants: Sequence[str] | None = None) -> list[BidsScan]:
    """Scans with every channel and a mask, sorted by name.

    Raises InputError that names the first scan without a modality or a mask, or a data set of one patient.
    """
    found = find_scans(bids_dir, channels=recipe.channels, participants=participants)
    if found.left_out:
        left = found.left_out[0]
        raise InputError(
            f"Expected every scan with {', '.join(recipe.channels)}, but {left.name.stem} has {left.reason}."
        )
    unmarked = [scan.name.stem for scan in found.scans if scan.reference is None]
    if unmarked:
        raise InputError(f"Expected a lesion mask for every scan of {bids_dir}, found none for {unmarked[0]}.")
    if len({scan.name.subject for scan in found.scans}) < 2:
        raise InputError(f"Expected at least two patients to train and validate on, found one in {bids_dir}.")
    return list(found.scans)


def split(scans: Sequence[BidsScan], recipe: Recipe) -> tuple[list[BidsScan], list[BidsScan]]:
    """Training and validation scans; a patient is never in both. A function of the seed and the patients' names."""
    patients = sorted({scan.name.subject for scan in scans})
    order = np.random.default_rng([recipe.seed, 20]).permutation(len(patients))
    shuffled = [patients[n] for n in order]
    if recipe.folds > 1:
        if recipe.folds > len(patients):
            raise InputError(f"Expected at most as many folds as patients, found {recipe.folds} for {len(patients)}.")
        held = set(shuffled[recipe.fold :: recipe.folds])
    else:
        held = set(shuffled[: min(max(1, round(recipe.validation * len(patients))), len(patients) - 1)])
    return [s for s in scans if s.name.subject not in held], [s for s in scans if s.name.subject in held]


def prepare(
    scans: Sequence[BidsScan], model: AbstractSegmenter, folder: Path, *, progress_fn: ProgressFn | None = None
) -> None:
    """Writes each scan as the network sees it (float16 image, mask, voxel numbers to centre patches on), once."""
    for number, scan in enumerate(scans, start=1):
        target = folder / scan.name.stem
        if not (target / "done.json").is_file():
            case = read_case(dict(scan.images), reference=scan.reference, name=scan.name, resample=True)
            if case.reference is None:
                raise InputError(f"Expected a lesion mask for {scan.name.stem}, found none.")
            placement = model.place(case)
            mask = placement.to_network.forward(torch.from_numpy(case.reference.astype(np.float32))) > 0.5
            lesion, head = mask.flatten().nonzero().flatten(), placement.head.flatten().nonzero().flatten()
            _save(target / "image.npy", placement.input[0].half().numpy())
            _save(target / "mask.npy", mask.numpy())
            _save(target / "lesion.npy", lesion.numpy())
            _save(target / "head.npy", head.numpy())
            write_text(target / "done.json", json.dumps({"shape": list(mask.shape)}))
        if progress_fn is not None:
            progress_fn("prepare", number, len(scans))


class Patches(Dataset):
    """One epoch's patches: `image` (channels, *patch) and `mask` (*patch), float32.

    Patch n of an epoch is the same whatever was drawn before, so that a resumed run sees what it would have seen.
    """

    def __init__(self, folder: Path, names: Sequence[str], recipe: Recipe, *, epoch: int) -> None:
        self.folder, self.names, self.recipe, self.epoch = folder, list(names), recipe, epoch
        self.augment = augmentation(recipe)

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, 1, self.epoch, number])
        place = self.folder / self.names[int(rng.integers(len(self.names)))]
        image, mask = np.load(place / "image.npy", mmap_mode="r"), np.load(place / "mask.npy", mmap_mode="r")
        lesion, head = np.load(place / "lesion.npy", mmap_mode="r"), np.load(place / "head.npy", mmap_mode="r")
        pool = lesion if len(lesion) and (rng.uniform() < self.recipe.positive or not len(head)) else head
        centre = np.array(np.unravel_index(int(pool[int(rng.integers(len(pool)))]), mask.shape))
        patch = np.array(self.recipe.patch)
        start = np.clip(centre - patch // 2, 0, np.maximum(np.array(mask.shape) - patch, 0))
        cut = {"image": _cut(image, start, patch).astype(np.float32), "mask": _cut(mask[None], start, patch)}
        self.augment.set_random_state(seed=int(rng.integers(2**31)))
        out: Any = self.augment(
            {"image": torch.from_numpy(cut["image"]), "mask": torch.from_numpy(cut["mask"]).float()}
        )
        return {"image": _plain(out["image"]), "mask": (_plain(out["mask"])[0] > 0.5).float()}


def augmentation(recipe: Recipe) -> Compose:
    """Published augmentation: flips, quarter turns, affine +-15 degrees and 10 %, intensity shift and scale 0.1."""
    keys, angle = ("image", "mask"), np.deg2rad(recipe.rotation_deg)
    return Compose(
        [
            *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
            *([RandRotate90d(keys, prob=0.5, max_k=3)] if recipe.patch[0] == recipe.patch[1] else []),
            RandAffined(
                keys,
                prob=0.5,
                rotate_range=[angle] * 3,
                scale_range=[recipe.zoom] * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandScaleIntensityd("image", factors=recipe.scale, prob=0.5),
            RandShiftIntensityd("image", offsets=recipe.shift, prob=0.5),
        ]
    )


def _cut(volume: np.ndarray, start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """A block (channels, *size), zeros beyond the volume's end."""
    stop = np.minimum(start + size, volume.shape[1:])
    block = np.asarray(volume[:, start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]])
    return np.pad(block, [(0, 0), *((0, int(s - n)) for s, n in zip(size, block.shape[1:], strict=True))])


def _save(path: Path, array: np.ndarray) -> None:
    with write_whole(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)


def _plain(x: Tensor) -> Tensor:
    return x.as_tensor() if hasattr(x, "as_tensor") else x
