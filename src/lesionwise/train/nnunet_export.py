"""A BIDS data set in nnU-Net's raw format, for users who train there."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lesionwise.errors import InputError
from lesionwise.io.cases import read_scan_case
from lesionwise.io.files import write_text
from lesionwise.io.nifti import write_image
from lesionwise.train.patches import scans_of
from lesionwise.train.recipe import Recipe
from lesionwise.types import ProgressFn


def export_nnunet(
    bids_dir: Path | str,
    out: Path | str,
    *,
    number: int = 1,
    name: str = "Lesions",
    channels: tuple[str, ...] = ("FLAIR", "T1w"),
    participants: Sequence[str] | None = None,
    progress_fn: ProgressFn | None = None,
    **chosen: Any,
) -> Path:
    """Writes OUT/DatasetNNN_Name with imagesTr, labelsTr, dataset.json, and splits_by_patient.json.

    Voxels outside the head are set to 0, so that nnU-Net crops and normalises inside it. nnU-Net splits by case, not
    by patient: copy splits_by_patient.json to nnUNet_preprocessed/DatasetNNN_Name/splits_final.json after planning.
    `chosen` are the options of `find_scans` that choose images and masks: filters, reference_from, reference_rule.

    Raises InputError for a data set without masks or modalities.
    """
    if not 0 < number < 1000:
        raise InputError(f"Expected a data set number from 1 to 999, found {number}.")
    scans = scans_of(Path(bids_dir), Recipe("unet", channels=channels), participants=participants, **chosen)
    folder = Path(out) / f"Dataset{number:03d}_{name}"
    for done, scan in enumerate(scans, start=1):
        case = read_scan_case(scan, resample=True)
        for n, channel in enumerate(channels):
            data = np.where(case.head, case.image.channel(channel), 0)
            write_image(folder / "imagesTr" / f"{scan.name.stem}_{n:04d}.nii.gz", data, case.image.affine)
        label = np.asarray(case.reference, dtype=np.uint8)
        write_image(folder / "labelsTr" / f"{scan.name.stem}.nii.gz", label, case.image.affine, dtype=np.uint8)
        if progress_fn is not None:
            progress_fn("export", done, len(scans))
    dataset = {
        "channel_names": {str(n): channel for n, channel in enumerate(channels)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(scans),
        "file_ending": ".nii.gz",
    }
    write_text(folder / "dataset.json", json.dumps(dataset, indent=2) + "\n")
    write_text(folder / "splits_by_patient.json", json.dumps(_splits(scans), indent=2) + "\n")
    return folder


def _splits(scans: Sequence) -> list[dict[str, list[str]]]:
    """Up to five folds in which a patient is either trained on or validated."""
    patients = sorted({scan.name.subject for scan in scans})
    folds = min(5, len(patients))
    out = []
    for fold in range(folds):
        held = set(patients[fold::folds])
        sides = {"train": False, "val": True}
        out.append({k: [s.name.stem for s in scans if (s.name.subject in held) == v] for k, v in sides.items()})
    return out
