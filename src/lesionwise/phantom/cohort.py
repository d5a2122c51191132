"""Synthetic patients as a BIDS data set, laid out like a real one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lesionwise.errors import InputError
from lesionwise.io.derivative import write_json
from lesionwise.io.files import write_text
from lesionwise.io.nifti import write_image
from lesionwise.phantom.anatomy import check_size
from lesionwise.phantom.mimics import MIMICS
from lesionwise.phantom.patient import TISSUES, Phantom, synthesise

BIDS_VERSION = "1.10.0"
SEED_STRIDE = 1_000_003
"""Patients of different cohorts do not meet as long as a cohort is smaller than this."""


def write_phantoms(
    bids_dir: Path | str,
    *,
    subjects: int = 20,
    seed: int = 0,
    sessions: int = 1,
    progress_fn: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Path]:
    """Writes a cohort; returns the FLAIR images in order.

    Images are `sub-X/[ses-Y/]anat/sub-X[_ses-Y]_FLAIR.nii.gz` and `_T1w.nii.gz` (int16); lesions lie under
    `derivatives/manual` as `_label-L_mask.nii.gz`, tissue, brain and bright non-lesions under `derivatives/truth`.
    `sessions` above 1 adds follow-ups. `options` are those of `synthesise`. Patient n of a seed is the same whatever
    the number of subjects. `progress_fn(done, total)` is called after every scan.

    Raises InputError for fewer than one subject or session, another size, or if the folder holds other subjects already.
    """
    bids_dir = Path(bids_dir)
    if subjects < 1 or sessions < 1:
        raise InputError(f"Expected at least one subject and one session, found {subjects} and {sessions}.")
    check_size(options.get("size", "full"))
    names = [f"phantom{n + 1:03d}" for n in range(subjects)]
    strangers = {p.name for p in bids_dir.glob("sub-*")} - {f"sub-{name}" for name in names}
    if strangers:
        raise InputError(
            f"Expected an empty folder for synthetic patients, found {sorted(strangers)[0]} in {bids_dir}."
        )
    _describe(bids_dir)
    images, rows = [], []
    for number, name in enumerate(names):
        for visit in range(1, sessions + 1):
            phantom = synthesise(seed * SEED_STRIDE + number, visit=visit, **options)
            images.append(_write(bids_dir, name, f"{visit}" if sessions > 1 else None, phantom))
            if progress_fn is not None:
                progress_fn(len(images), subjects * sessions)
        rows.append(f"sub-{name}\tphantom\t{seed * SEED_STRIDE + number}")
    write_text(bids_dir / "participants.tsv", "\n".join(["participant_id\tsource\tseed", *rows]) + "\n")
    return images


def _write(bids_dir: Path, name: str, session: str | None, phantom: Phantom) -> Path:
    folder = Path(f"sub-{name}", *([f"ses-{session}"] if session else []), "anat")
    stem = f"sub-{name}" + (f"_ses-{session}" if session else "")
    affine = phantom.image.affine
    for channel in phantom.image.channels:
        values = np.clip(np.round(phantom.image.channel(channel)), -32768, 32767)
        write_image(bids_dir / folder / f"{stem}_{channel}.nii.gz", values, affine, dtype=np.int16)
    manual, truth = (bids_dir / "derivatives" / kind / folder for kind in ("manual", "truth"))
    write_image(manual / f"{stem}_label-L_mask.nii.gz", phantom.reference, affine, dtype=bool)
    write_json(manual / f"{stem}_label-L_mask.json", {"Type": "Lesion", "Manual": False})
    write_image(truth / f"{stem}_desc-brain_mask.nii.gz", phantom.head, affine, dtype=bool)
    write_image(truth / f"{stem}_dseg.nii.gz", phantom.tissue, affine, dtype=np.uint8)
    write_image(truth / f"{stem}_desc-nonlesion_dseg.nii.gz", phantom.non_lesion, affine, dtype=np.uint8)
    write_image(truth / f"{stem}_label-ventricles_mask.nii.gz", phantom.ventricle_mm <= 0, affine, dtype=bool)
    write_image(truth / f"{stem}_desc-lesions_dseg.nii.gz", phantom.lesion_index, affine, dtype=np.int16)
    return bids_dir / folder / f"{stem}_FLAIR.nii.gz"


def _describe(bids_dir: Path) -> None:
    """What BIDS asks of the top folders."""
    source = [{"Name": "lesionwise phantom"}]
    facts = {"BIDSVersion": BIDS_VERSION, "GeneratedBy": source}
    write_json(bids_dir / "dataset_description.json", {"Name": "Synthetic patients", "DatasetType": "raw", **facts})
    for kind, title in (("manual", "Lesion masks of synthetic patients"), ("truth", "Truth of synthetic patients")):
        folder = bids_dir / "derivatives" / kind
        write_json(folder / "dataset_description.json", {"Name": title, "DatasetType": "derivative", **facts})
    truth = bids_dir / "derivatives" / "truth"
    tissues = [f"{value}\t{name.upper()}" for name, value in TISSUES.items()]
    write_text(truth / "dseg.tsv", "\n".join(["index\tname", *tissues]) + "\n")
    kinds = [f"{n}\t{name}" for n, name in enumerate(MIMICS, start=1)]
    write_text(truth / "desc-nonlesion_dseg.tsv", "\n".join(["index\tname", *kinds]) + "\n")
