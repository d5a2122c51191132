"""BIDS entities: the parts of a file name, their long names, and which images and masks lie in one space."""

import re
from collections.abc import Mapping
from pathlib import Path

LONG_NAMES: Mapping[str, str] = {
    "subject": "sub",
    "session": "ses",
    "sample": "sample",
    "task": "task",
    "acquisition": "acq",
    "ceagent": "ce",
    "tracer": "trc",
    "staining": "stain",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "modality": "mod",
    "echo": "echo",
    "flip": "flip",
    "inversion": "inv",
    "mtransfer": "mt",
    "part": "part",
    "processing": "proc",
    "hemisphere": "hemi",
    "space": "space",
    "split": "split",
    "recording": "recording",
    "chunk": "chunk",
    "segmentation": "seg",
    "resolution": "res",
    "density": "den",
    "label": "label",
    "description": "desc",
    "suffix": "suffix",
    "extension": "extension",
}
"""Long names of entities, as fMRIPrep's filter files and pybids use them, and the short ones in file names."""

Entities = dict[str, str]

_IMAGE = re.compile(r"^sub-[A-Za-z0-9]+(_[A-Za-z]+-[A-Za-z0-9+]+)*_[A-Za-z0-9]+\.nii(\.gz)?$")
_OWN_SPACE = ("", "orig", "native", "individual", "scanner", "self")


def entities_of(path: Path) -> Entities:
    """`{"sub": "01", "ses": ..., "suffix": "FLAIR", "extension": ".nii.gz", "path": ...}` of a BIDS file name.

    `suffix` is "" where a name has entities only, as nnU-Net's labels.
    """
    stem, dot, extension = path.name.partition(".")
    parts = stem.split("_")
    found = dict(part.split("-", 1) for part in parts if "-" in part)
    suffix = "" if "-" in parts[-1] else parts[-1]
    return {**found, "suffix": suffix, "extension": dot + extension, "path": str(path)}


def is_bids_image(path: Path) -> bool:
    """True for names such as `sub-01_run-2_FLAIR.nii.gz`."""
    return _IMAGE.match(path.name) is not None


def stem_of(path: Path) -> str:
    """The name without its suffixes."""
    return path.name.split(".")[0]


def same_value(key: str, first: str | None, second: str | None) -> bool:
    """True if two values of an entity are equal; indices are integers (run 1 is run 01)."""
    if first is None or second is None:
        return first is second
    if key in ("run", "echo", "inv", "flip", "split", "chunk") and first.isdigit() and second.isdigit():
        return int(first) == int(second)
    return first == second


def space_of(entities: Mapping[str, str]) -> str:
    """The space that an image lies in, lower case; "" for its own."""
    space = entities.get("space", "").lower()
    return "" if space in _OWN_SPACE or space == entities.get("suffix", "").lower() else space


def in_one_space(image: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """True if two files lie in one space at one resolution, as far as their names say.

    `space-T1w` is the own space of a T1w image, `space-FLAIR` that of a FLAIR image.
    """
    if image.get("res") != other.get("res"):
        return False
    first, second = space_of(image), space_of(other)
    if first == second:
        return True
    own = image.get("suffix", "").lower(), other.get("suffix", "").lower()
    return (first, second) in ((own[1], ""), ("", own[0]))


def shown_space(entities: Mapping[str, str]) -> str:
    """The space for people: `its own space`, `the space MNI152NLin6Asym at resolution 1`."""
    space = f"the space {entities['space']}" if space_of(entities) else "its own space"
    return space + (f" at resolution {entities['res']}" if "res" in entities else "")
