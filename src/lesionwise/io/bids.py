"""Finding scans in a BIDS data set, and the manual masks in its derivatives."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lesionwise.errors import InputError
from lesionwise.io.files import write_text
from lesionwise.volume import ScanName

CHANNEL_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "FLAIR": ("FLAIR",),
    "T1w": ("T1w", "MPRAGE", "MP2RAGE", "UNIT1"),
    "T2w": ("T2w",),
    "PDw": ("PDw",),
}
"""File suffixes under which a channel is looked for, best first."""

MASK_PATTERNS: tuple[str, ...] = (
    "label-L_mask",
    "label-lesion_mask",
    "desc-lesion_mask",
    "label-lesions_mask",
    "label-L_dseg",
    "label-lesion_dseg",
    "desc-lesion_dseg",
    "space-flair_seg-lst",
    "seg-lst",
)
"""Endings of lesion masks in derivatives, best first: BIDS, common habits, LST-AI."""

_IMAGE = re.compile(r"^sub-[A-Za-z0-9]+(_[A-Za-z]+-[A-Za-z0-9]+)*_(?P<suffix>[A-Za-z0-9]+)\.nii(\.gz)?$")


@dataclass(frozen=True)
class BidsScan:
    """One scan that can be explained: its name, an image per channel and, if found, a reference mask."""

    name: ScanName
    images: Mapping[str, Path]
    reference: Path | None = None


@dataclass(frozen=True)
class LeftOut:
    """A scan that cannot be used, and why."""

    name: ScanName
    reason: str


@dataclass(frozen=True)
class ScanList:
    """What was found in a data set."""

    scans: tuple[BidsScan, ...] = ()
    left_out: tuple[LeftOut, ...] = field(default=())


def find_scans(
    bids_dir: Path,
    *,
    channels: Sequence[str],
    participants: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    filters: Mapping[str, Mapping[str, str]] | None = None,
    reference_from: Path | None = None,
) -> ScanList:
    """All scans with every channel, sorted by name.

    A scan is one (subject, session, acq, run) of the first channel; other channels are taken from the same session,
    preferring the same acquisition and run. `filters` maps a channel to entities that its file name must have (as
    fMRIPrep's --bids-filter-file does). `reference_from` is a folder (or data set) searched for masks before the data
    set's derivatives.

    Raises InputError if the folder is not a data set, or a participant asked for is not there.
    """
    bids_dir = Path(bids_dir)
    if not bids_dir.is_dir():
        raise InputError(f"Expected a BIDS data set, but there is no folder {bids_dir}.")
    subjects = sorted(p.name[4:] for p in bids_dir.glob("sub-*") if p.is_dir())
    if not subjects:
        raise InputError(f"Expected a BIDS data set with sub-* folders, found none in {bids_dir}.")
    chosen = _chosen(subjects, participants, bids_dir)
    wanted_sessions = None if sessions is None else {s.removeprefix("ses-") for s in sessions}
    scans: list[BidsScan] = []
    left_out: list[LeftOut] = []
    masks = _masks(bids_dir, reference_from)
    for subject in chosen:
        images = _images(bids_dir / f"sub-{subject}", channels, filters or {})
        of_session: dict[str | None, list[dict[str, str]]] = {}
        for image in images:
            of_session.setdefault(image.get("ses"), []).append(image)
        for session in sorted(of_session, key=lambda s: s or ""):
            if wanted_sessions is not None and session not in wanted_sessions:
                continue
            _pair(subject, session, of_session[session], channels, masks, scans, left_out)
        if not images:
            left_out.append(LeftOut(ScanName(subject), f"no {' or '.join(channels)} image"))
    return ScanList(tuple(scans), tuple(left_out))


def write_bids_description(bids_dir: Path, *, name: str) -> None:
    """A minimal `dataset_description.json` of a raw data set."""
    write_text(
        bids_dir / "dataset_description.json", json.dumps({"Name": name, "BIDSVersion": "1.10.0"}, indent=2) + "\n"
    )


def entities_of(path: Path) -> dict[str, str]:
    """`{"sub": "01", "ses": ..., "suffix": "FLAIR"}` of a BIDS file name."""
    parts = path.name.split(".")[0].split("_")
    found = dict(part.split("-", 1) for part in parts if "-" in part)
    return {**found, "suffix": parts[-1], "path": str(path)}


def _chosen(subjects: Sequence[str], participants: Iterable[str] | None, bids_dir: Path) -> list[str]:
    if participants is None:
        return list(subjects)
    asked = [label.removeprefix("sub-") for label in participants]
    unknown = [label for label in asked if label not in subjects]
    if unknown:
        raise InputError(f"Expected participants of {bids_dir}, but it has no sub-{', sub-'.join(unknown)}.")
    return sorted(set(asked))


def _images(folder: Path, channels: Sequence[str], filters: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """Entities of every usable image below a subject, with `channel` and `rank` of its suffix."""
    found = []
    for path in sorted([*folder.glob("anat/*.nii*"), *folder.glob("ses-*/anat/*.nii*")]):
        match = _IMAGE.match(path.name)
        if match is None:
            continue
        entities = entities_of(path)
        for channel in channels:
            suffixes = CHANNEL_SUFFIXES.get(channel, (channel,))
            if entities["suffix"] not in suffixes:
                continue
            if all(entities.get(key) == value for key, value in filters.get(channel, {}).items()):
                found.append({**entities, "channel": channel, "rank": str(suffixes.index(entities["suffix"]))})
    return found


def _pair(
    subject: str,
    session: str | None,
    images: list[dict[str, str]],
    channels: Sequence[str],
    masks: Mapping[tuple[str, str | None], list[Path]],
    scans: list[BidsScan],
    left_out: list[LeftOut],
) -> None:
    firsts = [image for image in images if image["channel"] == channels[0]]
    if not firsts:
        left_out.append(LeftOut(ScanName(subject, session), f"no {channels[0]} image"))
    for first in firsts:
        name = ScanName(subject, session, first.get("acq"), first.get("run"))
        paths = {channels[0]: Path(first["path"])}
        for channel in channels[1:]:
            candidates = [image for image in images if image["channel"] == channel]
            if candidates:
                paths[channel] = Path(min(candidates, key=lambda c: _distance(c, first))["path"])
        missing = [channel for channel in channels if channel not in paths]
        if missing:
            left_out.append(LeftOut(name, f"no {' and no '.join(missing)} image"))
        else:
            scans.append(BidsScan(name, paths, _reference(name, masks)))


def _distance(candidate: Mapping[str, str], first: Mapping[str, str]) -> tuple[bool, bool, str, str]:
    return (
        candidate.get("run") != first.get("run"),
        candidate.get("acq") != first.get("acq"),
        candidate["rank"],
        candidate["path"],
    )


def _masks(bids_dir: Path, reference_from: Path | None) -> dict[tuple[str, str | None], list[Path]]:
    """Mask files by (subject, session): those of `reference_from` first, then the derivatives'."""
    if reference_from is not None and not Path(reference_from).is_dir():
        raise InputError(f"Expected a folder of reference masks, but there is no folder {reference_from}.")
    roots = [Path(reference_from)] if reference_from is not None else sorted((bids_dir / "derivatives").glob("*"))
    found: dict[tuple[str, str | None], list[Path]] = {}
    for root in roots:
        paths = [
            p for p in sorted(root.rglob("*.nii*")) if _mask_rank(p, anything=reference_from is not None) is not None
        ]
        for path in sorted(paths, key=lambda p: _mask_rank(p, anything=True) or 0):
            entities = entities_of(path)
            if "sub" in entities:
                found.setdefault((entities["sub"], entities.get("ses")), []).append(path)
    return found


def _mask_rank(path: Path, *, anything: bool) -> int | None:
    stem = path.name.split(".")[0]
    for rank, pattern in enumerate(MASK_PATTERNS):
        if stem.endswith(pattern):
            return rank
    if anything and "sub-" in stem and not stem.endswith(("FLAIR", "T1w", "T2w", "PDw")):
        return len(MASK_PATTERNS)
    return None


def _reference(name: ScanName, masks: Mapping[tuple[str, str | None], list[Path]]) -> Path | None:
    candidates = masks.get((name.subject, name.session), [])
    for path in candidates:
        entities = entities_of(path)
        if entities.get("run", name.run) == name.run and entities.get("acq", name.acquisition) == name.acquisition:
            return path
    return None
