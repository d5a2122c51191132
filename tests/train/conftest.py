"""A BIDS data set of small blobs, quick to write and quick to learn."""

import numpy as np
import pytest
from blobs import head_with_balls

from lesionwise.io.bids import write_bids_description
from lesionwise.io.nifti import write_image

SHAPE = (36, 36, 34)


def write_patient(root, name, seed, *, session=None, channels=("FLAIR", "T1w"), mask=True):
    rng = np.random.default_rng(seed)
    head, lesions = head_with_balls(rng, SHAPE, count=5, reach=0.5, head=0.9)
    folder = root / f"sub-{name}" / (f"ses-{session}" if session else "") / "anat"
    stem = f"sub-{name}" + (f"_ses-{session}" if session else "")
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    for channel in channels:
        level, contrast = (100, 80) if channel == "FLAIR" else (150, -70)
        image = (level + contrast * lesions + 6 * rng.normal(size=SHAPE)) * head
        write_image(folder / f"{stem}_{channel}.nii.gz", image, affine)
    if mask:
        place = root / "derivatives" / "manual" / folder.relative_to(root)
        write_image(place / f"{stem}_label-L_mask.nii.gz", lesions & head, affine, dtype=bool)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """Six patients, the last one with two sessions."""
    root = tmp_path_factory.mktemp("blobs")
    write_bids_description(root, name="blobs")
    for n in range(5):
        write_patient(root, f"b{n}", n)
    for session in (1, 2):
        write_patient(root, "b5", 10 + session, session=session)
    return root
