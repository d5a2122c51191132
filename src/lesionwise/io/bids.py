"""Finding scans in a BIDS data set, each with its channels, reference and brain mask."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesionwise.errors import InputError
from lesionwise.geometry.volume import ScanName
from lesionwise.io.files import write_text
from lesionwise.io.references import References, find_brain_masks, find_references

CHANNEL_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "FLAIR": ("FLAIR",),
    "T1w": ("T1w", "MPRAGE", "MP2RAGE", "UNIT1"),
    "T2w": ("T2w",),
    "PDw": ("PDw",),
}
"""File suffixes under which a channel is looked for, best first."""

FILTER_KEYS: Mapping[str, str] = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "run": "run",
    "reconstruction": "rec",
    "direction": "dir",
    "echo": "echo",
    "inversion": "inv",
    "ceagent": "ce",
    "part": "part",
    "suffix": "suffix",
}
"""Long names of entities in a filter file (as fMRIPrep and pybids use them), and the short ones in file names."""

_IMAGE = re.compile(r"^sub-[A-Za-z0-9]+(_[A-Za-z]+-[A-Za-z0-9]+)*_(?P<suffix>[A-Za-z0-9]+)\.nii(\.gz)?$")


@dataclass(frozen=True)
class BidsScan:
    """One scan that can be explained: its name, an image per channel and, if found, a reference mask."""

    name: ScanName
    images: Mapping[str, Path]
    reference: Path | None = None
    brain_mask: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """All files of the scan by what they are: channels, `reference`, `brain mask`."""
        extra = {"reference": self.reference, "brain mask": self.brain_mask}
        return {**self.images, **{what: path for what, path in extra.items() if path is not None}}


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
    filters: Mapping[str, Mapping[str, Any]] | None = None,
    reference_from: Path | None = None,
    brain_masks_from: Path | None = None,
) -> ScanList:
    """All scans with every channel, sorted by name.

    A scan is one (subject, session, acq, run) of the first channel; other channels are taken from the same session,
    preferring the same acquisition and run. `filters` maps a channel to entities that its file name must have (as
    fMRIPrep's --bids-filter-file does; see `read_filters`). `reference_from` is a folder (or data set) searched for
    reference masks instead of the data set's derivatives; `brain_masks_from` one searched for brain masks.

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
    masks = find_references(bids_dir, reference_from)
    brains = None if brain_masks_from is None else find_brain_masks(brain_masks_from)
    for subject in chosen:
        images = _images(bids_dir / f"sub-{subject}", channels, filters or {})
        of_session: dict[str | None, list[dict[str, str]]] = {}
        for image in images:
            of_session.setdefault(image.get("ses"), []).append(image)
        for session in sorted(of_session, key=lambda s: s or ""):
            if wanted_sessions is not None and session not in wanted_sessions:
                continue
            _pair(subject, session, of_session[session], channels, masks, brains, scans, left_out)
        if not images:
            left_out.append(LeftOut(ScanName(subject), f"no {' or '.join(channels)} image"))
    return ScanList(tuple(scans), tuple(left_out))


def read_filters(path: Path, *, channels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A filter file: {"FLAIR": {"acquisition": "3D", "run": ["1", "2"], "reconstruction": null}}.

    Channels go by name, upper or lower case (`flair`, `t1w`). A value is what the entity must be, a list what it may
    be, null that the file must not have it. Entities go by their long or their short names.

    Raises InputError if the file is not such JSON, or names a channel or an entity that is not known.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Expected a JSON file of filters, but {path} cannot be read ({error}).") from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise InputError(f'Expected filters such as {{"FLAIR": {{"acquisition": "3D"}}}} in {path}.')
    by_lower = {channel.lower(): channel for channel in channels}
    filters: dict[str, dict[str, Any]] = {}
    for query, entities in content.items():
        if query.lower() not in by_lower:
            raise InputError(f"Expected filters for {', '.join(channels)} in {path}, found {query}.")
        chosen = {FILTER_KEYS.get(key, key): value for key, value in entities.items() if key != "datatype"}
        unknown = sorted(chosen.keys() - set(FILTER_KEYS.values()))
        if unknown:
            raise InputError(f"Expected entities among {', '.join(FILTER_KEYS)} in {path}, found {unknown[0]}.")
        filters[by_lower[query.lower()]] = chosen
    return filters


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


def _images(folder: Path, channels: Sequence[str], filters: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
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
            if all(_fits(entities.get(key), value) for key, value in filters.get(channel, {}).items()):
                found.append({**entities, "channel": channel, "rank": str(suffixes.index(entities["suffix"]))})
    return found


def _fits(found: str | None, wanted: Any) -> bool:
    if wanted is None:
        return found is None
    allowed = [str(one) for one in (wanted if isinstance(wanted, list) else [wanted])]
    # 1, "1" and "01" are one run
    return found is not None and (found in allowed or found.lstrip("0") in {one.lstrip("0") for one in allowed})


def _pair(
    subject: str,
    session: str | None,
    images: list[dict[str, str]],
    channels: Sequence[str],
    masks: References,
    brains: References | None,
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
            continue
        brain = None if brains is None else brains.of(name)
        if brains is not None and brain is None:
            left_out.append(LeftOut(name, "no brain mask in the folder of brain masks"))
            continue
        scans.append(BidsScan(name, paths, masks.of(name), brain))


def _distance(candidate: Mapping[str, str], first: Mapping[str, str]) -> tuple[bool, bool, str, str]:
    return (
        candidate.get("run") != first.get("run"),
        candidate.get("acq") != first.get("acq"),
        candidate["rank"],
        candidate["path"],
    )
