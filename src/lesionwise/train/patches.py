"""From scans to training patches: prepared once on disk, drawn and augmented as a function of (seed, epoch, number)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lesionwise.errors import InputError
from lesionwise.geometry.affine import voxel_sizes_mm
from lesionwise.io.bids import BidsScan, find_scans
from lesionwise.io.cases import read_scan_case
from lesionwise.io.files import write_text, write_whole
from lesionwise.io.nifti import read_image
from lesionwise.models.folds import content_hash
from lesionwise.segmenter import AbstractSegmenter
from lesionwise.train.augmentation import augmentation, paste_lesion
from lesionwise.train.recipe import Recipe
from lesionwise.types import ProgressFn

THICK_MM = 3.0
"""Scans with a voxel side above this are of thick slices: folds and validation hold their share of both kinds."""

DONOR_VOX = 24
"""Side of the block around a lesion that may be pasted into another patient's patch."""


def scans_of(
    bids_dirs: Path | Sequence[Path],
    recipe: Recipe,
    *,
    participants: Sequence[str] | None = None,
    left_out: dict[str, str] | None = None,
    **chosen: Any,
) -> list[BidsScan]:
    """Scans of one or several data sets with every channel and a mask, sorted by name within a data set.

    `chosen` are the options of `find_scans` that choose images and masks: filters, reference_from, reference_rule.

    Scans without are noted in `left_out` (name: reason). Raises InputError for the first of them if it is None, for
    a participant who is in two of the data sets, and for data of one patient only.
    """
    dirs = [bids_dirs] if isinstance(bids_dirs, Path) else list(bids_dirs)
    scans: list[BidsScan] = []
    for bids_dir in dirs:
        found = find_scans(bids_dir, channels=recipe.channels, participants=participants, **chosen)
        reasons = {left.name.stem: left.reason for left in found.left_out}
        reasons |= {scan.name.stem: "no lesion mask" for scan in found.scans if scan.reference is None}
        if reasons and left_out is None:
            name, reason = next(iter(reasons.items()))
            raise InputError(f"Expected every scan of {bids_dir} to be fit for training, but {name} has {reason}.")
        (left_out if left_out is not None else {}).update(reasons)
        more = [scan for scan in found.scans if scan.reference is not None]
        twice = {s.name.subject for s in scans} & {s.name.subject for s in more}
        if twice:
            raise InputError(
                f"Expected every participant in one data set only, found {min(twice)} in {bids_dir} and before it."
            )
        scans += more
    if len({scan.name.subject for scan in scans}) < 2:
        where = ", ".join(str(d) for d in dirs)
        raise InputError(f"Expected at least two patients to train and validate on, found one in {where}.")
    return scans


def by_patient(scans: Sequence[BidsScan]) -> list[list[str]]:
    """Names of the scans of each patient, patients in order of their names."""
    patients: dict[str, list[str]] = {}
    for scan in scans:
        patients.setdefault(scan.name.subject, []).append(scan.name.stem)
    return [patients[name] for name in sorted(patients)]


def split(scans: Sequence[BidsScan], recipe: Recipe) -> tuple[list[BidsScan], list[BidsScan]]:
    """Training and validation scans; a patient is never in both. A function of the seed and the patients' names."""
    folds = deal(scans, recipe)
    if recipe.folds > 1:
        held = set(folds[recipe.fold])
    else:
        patients = [name for fold in folds for name in fold]
        held = set(
            patients[: min(round(recipe.validation * len(patients)) or bool(recipe.validation), len(patients) - 1)]
        )
    return [s for s in scans if s.name.subject not in held], [s for s in scans if s.name.subject in held]


def deal(scans: Sequence[BidsScan], recipe: Recipe) -> list[list[str]]:
    """The patients of each fold: shuffled, then dealt out like cards, those with thick slices after the others.

    So every fold holds its share of thick slices, and fold sizes differ by one at most.
    """
    patients = sorted({scan.name.subject for scan in scans})
    if recipe.folds > len(patients):
        raise InputError(f"Expected at most as many folds as patients, found {recipe.folds} for {len(patients)}.")
    order = np.random.default_rng([recipe.seed, 20]).permutation(len(patients))
    shuffled = [patients[n] for n in order]
    thick = {scan.name.subject for scan in scans if is_thick(scan)}
    if recipe.folds > 1:
        shuffled.sort(key=lambda name: name in thick)
    return [shuffled[fold :: recipe.folds] for fold in range(recipe.folds)]


def is_thick(scan: BidsScan) -> bool:
    """True if a voxel side of the scan's first channel is above THICK_MM."""
    _, affine = read_image(next(iter(scan.images.values())))
    return max(voxel_sizes_mm(affine)) > THICK_MM


def prepare(
    scans: Sequence[BidsScan],
    model: AbstractSegmenter,
    folder: Path,
    *,
    left_out: dict[str, str] | None = None,
    progress_fn: ProgressFn | None = None,
) -> None:
    """Writes each scan as the network sees it (float16 image, mask, voxel numbers to centre patches on), once.

    Scans that cannot be read are noted in `left_out` (name: reason); the first one raises InputError if it is None.
    """
    for number, scan in enumerate(scans, start=1):
        try:
            _prepare_one(scan, model, folder / scan.name.stem)
        except InputError as error:
            if left_out is None:
                raise
            left_out[scan.name.stem] = str(error)
        if progress_fn is not None:
            progress_fn("prepare", number, len(scans))


def _prepare_one(scan: BidsScan, model: AbstractSegmenter, target: Path) -> None:
    if (target / "done.json").is_file():
        return
    case = read_scan_case(scan, resample=True)
    if case.reference is None:
        raise InputError(f"Expected a lesion mask for {scan.name.stem}, found none.")
    placement = model.place(case)
    mask = placement.to_network.forward(torch.from_numpy(case.reference.astype(np.float32))) > 0.5
    lesion, head = mask.flatten().nonzero().flatten(), placement.head.flatten().nonzero().flatten()
    _save(target / "image.npy", placement.input[0].half().numpy())
    _save(target / "mask.npy", mask.numpy())
    _save(target / "lesion.npy", lesion.numpy())
    _save(target / "head.npy", head.numpy())
    write_text(target / "done.json", json.dumps({"shape": list(mask.shape), "content": content_hash(case)}))


class Patches(Dataset):
    """One epoch's patches: `image` (channels, *patch) and `mask` (*patch), float32.

    `patients` and `mixed` list the scans of each patient: a patient weighs the same however often they were scanned.
    Patch n of an epoch is the same whatever was drawn before, so that a resumed run sees what it would have seen.
    """

    def __init__(
        self,
        folder: Path,
        patients: Sequence[Sequence[str]],
        recipe: Recipe,
        *,
        epoch: int,
        mixed: Sequence[Sequence[str]] = (),
    ) -> None:
        self.folder, self.patients, self.mixed = folder, [list(p) for p in patients], [list(p) for p in mixed]
        self.recipe, self.epoch = recipe, epoch
        self.augment = augmentation(recipe)

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, self.epoch, number])
        second_kind = bool(self.mixed) and rng.uniform() < recipe.mix
        scan = _Prepared.drawn(self.folder, self.mixed if second_kind else self.patients, rng)
        centre = scan.centre(rng, positive=recipe.positive)
        patch = np.array(recipe.patch)
        jitter = rng.integers(-patch // 4, patch // 4 + 1) if recipe.augmentation == "wide" else 0
        start = np.clip(centre + jitter - patch // 2, 0, np.maximum(np.array(scan.shape) - patch, 0))
        image, mask = scan.cut(start, patch)
        if recipe.copy_paste and rng.uniform() < recipe.copy_paste:
            donor = _Prepared.drawn(self.folder, self.patients, rng)
            _paste(image, mask, donor, rng)
        self.augment.set_random_state(seed=int(rng.integers(2**31)))
        out: Any = self.augment({"image": torch.from_numpy(image), "mask": torch.from_numpy(mask)[None].float()})
        return {"image": _plain(out["image"]), "mask": (_plain(out["mask"])[0] > 0.5).float()}


class _Prepared:
    """A scan as `prepare` wrote it."""

    def __init__(self, place: Path) -> None:
        self.image, self.mask, self.lesion, self.head = (
            np.load(place / f"{name}.npy", mmap_mode="r") for name in ("image", "mask", "lesion", "head")
        )
        self.shape = self.mask.shape

    @classmethod
    def drawn(cls, folder: Path, patients: Sequence[Sequence[str]], rng: np.random.Generator) -> "_Prepared":
        """A scan of a patient, each patient equally likely."""
        scans = patients[int(rng.integers(len(patients)))]
        return cls(folder / scans[int(rng.integers(len(scans)))])

    def centre(self, rng: np.random.Generator, *, positive: float) -> np.ndarray:
        """A lesion voxel with probability `positive`, else one in the head."""
        lesions = len(self.lesion) and (rng.uniform() < positive or not len(self.head))
        pool = self.lesion if lesions else self.head
        return np.array(np.unravel_index(int(pool[int(rng.integers(len(pool)))]), self.shape))

    def cut(self, start: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image (channels, *size) float32 and mask (*size) from `start` on, zeros beyond the volume's end."""
        image = _cut(self.image, start, size).astype(np.float32)
        return image, _cut(self.mask[None], start, size)[0].astype(bool)


def _paste(image: np.ndarray, mask: np.ndarray, donor: _Prepared, rng: np.random.Generator) -> None:
    """A lesion of `donor` at a place in the head of the patch, in place; nothing where either has none."""
    size = np.minimum(DONOR_VOX, np.minimum(image.shape[1:], donor.shape))
    inside = np.argwhere(image[0] != 0)
    if not len(donor.lesion) or not len(inside):
        return
    start = np.clip(donor.centre(rng, positive=1.0) - size // 2, 0, np.array(donor.shape) - size)
    donor_image, donor_mask = donor.cut(start, size)
    corner = np.clip(inside[int(rng.integers(len(inside)))] - size // 2, 0, np.array(mask.shape) - size)
    paste_lesion(image, mask, donor_image, donor_mask, corner)


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
