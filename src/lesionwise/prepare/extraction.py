"""Brain extraction: which voxels of a head with skull, eyes and neck are brain.

Each way is a function from one channel to a mask on that channel's own grid. None of them downloads anything: deepbet's
weights come in its package; HD-BET and SynthStrip are used if the user has installed them, weights included.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lesionwise.errors import InputError, MissingExtraError
from lesionwise.geometry.grids import reorientation
from lesionwise.geometry.volume import Volume
from lesionwise.io.masks import read_mask
from lesionwise.io.nifti import write_image
from lesionwise.prepare.itk import simpleitk
from lesionwise.types import MaskArray

HD_BET_WEIGHTS = Path("hd-bet_params", "release_2.0.0", "fold_all", "checkpoint_final.pth")
"""Where HD-BET 2 looks for its weights, below the user's home, before it downloads them."""


def deepbet(channel: Volume) -> MaskArray:
    """Fisch et al. 2024 (10.1016/j.compbiomed.2024.108845): two LinkNets trained on T1w images of adults.

    On FLAIR it does about as well (docs/prepare.md). Raises MissingExtraError without the package, and InputError where
    it finds nothing that looks like a brain.
    """
    turn = reorientation(channel.affine, channel.shape, axes="RAS")
    upright = turn.forward(torch.from_numpy(np.ascontiguousarray(channel.data[0]))).numpy()
    extraction = _deepbet()
    try:
        with torch.no_grad():
            mask = extraction.postprocess(extraction.run_model(upright) > 0.5)
    except (AssertionError, ValueError) as error:  # "not enough foreground", no component
        raise InputError(
            f"Expected a head with a brain, but deepbet finds none in the {channel.channels[0]} image."
        ) from error
    return turn.adjoint(torch.from_numpy(mask.astype(np.float32))).numpy() > 0.5


def hd_bet(channel: Volume) -> MaskArray:
    """Isensee et al. 2019 (10.1002/hbm.24750), by the command `hd-bet` of the user's own installation.

    Raises InputError if the command or its weights are not there.
    """
    weights = Path.home() / HD_BET_WEIGHTS
    if shutil.which("hd-bet") is not None and not weights.is_file():
        raise InputError(
            f"Expected HD-BET's weights in {weights}: run hd-bet once by hand to fetch them, since nothing is "
            "downloaded here, or use --brain-extraction deepbet."
        )
    options = ("-device", "cpu", "--disable_tta", "--save_bet_mask", "--no_bet_image")
    return _by_command(channel, ["hd-bet", "-i", "image.nii.gz", "-o", "brain.nii.gz", *options], "brain_bet.nii.gz")


def synthstrip(channel: Volume) -> MaskArray:
    """Hoopes et al. 2022 (10.1016/j.neuroimage.2022.119474), by FreeSurfer's command `mri_synthstrip`.

    Raises InputError if the command is not there.
    """
    return _by_command(channel, ["mri_synthstrip", "-i", "image.nii.gz", "-m", "mask.nii.gz"], "mask.nii.gz")


EXTRACTIONS: Mapping[str, Callable[[Volume], MaskArray]] = {
    "deepbet": deepbet,
    "hd-bet": hd_bet,
    "synthstrip": synthstrip,
}
"""Ways to extract a brain, by the names that the command line knows; beside them there is `none`."""


def check_installed(extraction: str) -> None:
    """Raises MissingExtraError or InputError, before any work, if preparing scans needs what is not installed here."""
    simpleitk()
    if extraction == "deepbet" and find_spec("deepbet") is None:
        raise MissingExtraError.of("deepbet", extra="prepare", purpose="Brain extraction")
    command = {"hd-bet": "hd-bet", "synthstrip": "mri_synthstrip"}.get(extraction)
    if command is not None:
        _check_command(command)


@lru_cache(maxsize=1)
def _deepbet() -> Any:
    """The networks, read once per process."""
    try:
        from deepbet import BrainExtraction
    except ImportError as error:
        raise MissingExtraError.of("deepbet", extra="prepare", purpose="Brain extraction") from error
    return BrainExtraction(no_gpu=True)


def _by_command(channel: Volume, command: Sequence[str], result: str) -> MaskArray:
    """The mask that a command of the user's leaves in its working folder, where `image.nii.gz` is the channel."""
    _check_command(command[0])
    with tempfile.TemporaryDirectory(prefix="lesionwise-") as folder:
        write_image(Path(folder, "image.nii.gz"), channel.data[0], channel.affine)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        mask = Path(folder, result)
        if done.returncode != 0 or not mask.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()
            raise InputError(
                f"Expected {command[0]} to extract the brain, but it failed ({said[-1] if said else '?'})."
            )
        return read_mask(mask, like=(channel.shape, channel.affine), what="brain mask")


def _check_command(command: str) -> None:
    if shutil.which(command) is None:
        raise InputError(
            f"Expected the command {command} for this brain extraction, but it is not installed here: "
            "install it, or use --brain-extraction deepbet."
        )
