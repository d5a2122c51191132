"""Finding scans in a BIDS data set, each with its channels, reference and brain mask; and saying what was chosen."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesionwise.errors import InputError
from lesionwise.geometry.volume import NAMED_BY, ScanName
from lesionwise.io.entities import (
    LONG_NAMES,
    Entities,
    entities_of,
    in_one_space,
    is_bids_image,
    same_value,
    shown_space,
    space_of,
)
from lesionwise.io.files import write_text
from lesionwise.io.masks import ReferenceRule
from lesionwise.io.references import References, find_brain_masks, find_references

CHANNEL_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "FLAIR": ("FLAIR",),
    "T1w": ("T1w", "MPRAGE", "MP2RAGE", "UNIT1"),
    "T2w": ("T2w",),
    "PDw": ("PDw",),
}
"""File suffixes under which a channel is looked for, best first."""

_NOT_MAGNITUDE = ("phase", "real", "imag")
_AS_IF_REPEATED = ("run", "acq")
"""Where images differ by these alone, the first is as good as the other, and which was taken is said."""

Filters = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class BidsScan:
    """One scan that can be explained: its name, an image per channel and, if found, a reference mask.

    `reference_rule` says which of the reference's values are lesion; `notes` what was chosen among several.
    """

    name: ScanName
    images: Mapping[str, Path]
    reference: Path | None = None
    brain_mask: Path | None = None
    reference_rule: ReferenceRule = field(default_factory=ReferenceRule)
    notes: tuple[str, ...] = ()

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
    optional_channels: Sequence[str] = (),
    participants: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    filters: Filters | None = None,
    reference_from: Path | None = None,
    reference_rule: ReferenceRule | None = None,
    brain_masks_from: Path | None = None,
) -> ScanList:
    """All scans with every channel, sorted by name; no two have one name.

    Of `optional_channels` a scan may lack those after the first channel, which its notes then say.

    A scan is one image of the first channel, named by the entities that tell acquisitions apart (`NAMED_BY`). Where
    several versions of one acquisition are there (space, res, desc, .nii and .nii.gz), it is left out with a reason that
    names the filter to choose with. Other channels come from the same session, in the same space and resolution; equal
    run, then equal contrast agent (else none), then equal acquisition are preferred. `filters` maps a channel to entities
    that its file name must have (as fMRIPrep's --bids-filter-file does; see `read_filters`). `reference_from` is a folder
    (or data set) searched for reference masks instead of the data set's derivatives; `brain_masks_from` one searched for
    brain masks.

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
    finder = _Finder(
        tuple(channels),
        filters or {},
        find_references(bids_dir, reference_from),
        None if brain_masks_from is None else find_brain_masks(brain_masks_from),
        reference_rule or ReferenceRule(),
        tuple(optional_channels),
    )
    for subject in chosen:
        images = finder.images(bids_dir / f"sub-{subject}")
        of_session: dict[str | None, list[Entities]] = {}
        for image in images:
            of_session.setdefault(image.get("ses"), []).append(image)
        for session in sorted(of_session, key=lambda s: s or ""):
            if wanted_sessions is None or session in wanted_sessions:
                finder.add(subject, session, of_session[session])
        if not images:
            finder.left_out.append(LeftOut(ScanName(subject), f"no {' or '.join(channels)} image"))
    return ScanList(tuple(finder.scans), tuple(finder.left_out))


def read_filters(path: Path, *, channels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A filter file: {"FLAIR": {"acquisition": "3D", "run": ["1", "2"], "reconstruction": null}}.

    Channels go by name, upper or lower case (`flair`, `t1w`). A value is what the entity must be, a list what it may
    be, null that the file must not have it. Entities go by their long or their short names.

    Raises InputError if the file is not such JSON, or names a channel or an entity that is not known.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Expected a JSON file of filters, but {path} cannot be read as one.") from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise InputError(f'Expected filters such as {{"FLAIR": {{"acquisition": "3D"}}}} in {path}.')
    by_lower = {channel.lower(): channel for channel in channels}
    filters: dict[str, dict[str, Any]] = {}
    for query, entities in content.items():
        if query.lower() not in by_lower:
            raise InputError(f"Expected filters for {', '.join(channels)} in {path}, found {query}.")
        chosen = {LONG_NAMES.get(key, key): value for key, value in entities.items() if key != "datatype"}
        unknown = sorted(chosen.keys() - set(LONG_NAMES.values()))
        if unknown:
            raise InputError(f"Expected entities among {', '.join(LONG_NAMES)} in {path}, found {unknown[0]}.")
        filters[by_lower[query.lower()]] = chosen
    return filters


def write_bids_description(bids_dir: Path, *, name: str) -> None:
    """A minimal `dataset_description.json` of a raw data set."""
    write_text(
        bids_dir / "dataset_description.json", json.dumps({"Name": name, "BIDSVersion": "1.10.0"}, indent=2) + "\n"
    )


def name_of(path: Path) -> ScanName | None:
    """The scan that a file's name speaks of, None if it names no subject."""
    entities = entities_of(path)
    return ScanName.of_entities(entities) if entities.get("sub") else None


def _chosen(subjects: Sequence[str], participants: Iterable[str] | None, bids_dir: Path) -> list[str]:
    if participants is None:
        return list(subjects)
    asked = [label.removeprefix("sub-") for label in participants]
    unknown = [label for label in asked if label not in subjects]
    if unknown:
        raise InputError(f"Expected participants of {bids_dir}, but it has no sub-{', sub-'.join(unknown)}.")
    return sorted(set(asked))


@dataclass
class _Finder:
    """What was asked for, and what was found so far."""

    channels: tuple[str, ...]
    filters: Filters
    masks: References
    brains: References | None
    rule: ReferenceRule
    optional: tuple[str, ...] = ()
    scans: list[BidsScan] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def images(self, folder: Path) -> list[Entities]:
        """Entities of every usable image below a subject, with `channel` and `rank` of its suffix."""
        found = []
        for path in sorted([*folder.glob("anat/*.nii*"), *folder.glob("ses-*/anat/*.nii*")]):
            if not is_bids_image(path):
                continue
            entities = entities_of(path)
            for channel in self.channels:
                suffixes = CHANNEL_SUFFIXES.get(channel, (channel,))
                wanted = self.filters.get(channel, {})
                if entities["suffix"] not in suffixes:
                    continue
                if "part" not in wanted and entities.get("part") in _NOT_MAGNITUDE:
                    continue
                if all(_fits(key, entities.get(key), value) for key, value in wanted.items()):
                    found.append({**entities, "channel": channel, "rank": str(suffixes.index(entities["suffix"]))})
        return found

    def add(self, subject: str, session: str | None, images: list[Entities]) -> None:
        """The scans of one session, or why they are left out."""
        first = self.channels[0]
        by_name: dict[ScanName, list[Entities]] = {}
        for image in images:
            if image["channel"] == first:
                name = ScanName.of_entities({**image, "sub": subject, **({} if session is None else {"ses": session})})
                by_name.setdefault(name, []).append(image)
        if not by_name:
            self.left_out.append(LeftOut(ScanName(subject, session), f"no {first} image"))
        for name, versions in by_name.items():
            if len(versions) > 1:
                self.left_out.append(LeftOut(name, _which(first, versions)))
                continue
            scan = self._scan(name, versions[0], images, len(by_name))
            (self.scans if isinstance(scan, BidsScan) else self.left_out).append(scan)  # type: ignore[arg-type]

    def _scan(self, name: ScanName, first: Entities, images: list[Entities], n_scans: int) -> BidsScan | LeftOut:
        paths, notes = {self.channels[0]: Path(first["path"])}, []
        missing = []
        for channel in self.channels[1:]:
            candidates = [image for image in images if image["channel"] == channel]
            if not candidates and channel in self.optional:
                notes.append(f"{channel}: no image in the data set; the model does without.")
                continue
            if not candidates:
                missing.append(channel)
                continue
            partner = _partner(channel, first, candidates)
            if isinstance(partner, str):
                return LeftOut(name, partner)
            image, said = partner
            paths[channel] = Path(image["path"])
            notes += said
        if missing:
            return LeftOut(name, f"no {' and no '.join(missing)} image")
        brain = None if self.brains is None else self.brains.choose(name, first, what="Brain mask")
        if brain is not None and brain.path is None:
            return LeftOut(name, brain.problem or "no brain mask in the folder of brain masks")
        mask = self.masks.choose(name, first)
        if mask.problem:
            return LeftOut(name, mask.problem)
        if mask.path is not None and n_scans > 1 and _says_less(entities_of(mask.path), first):
            notes.append(
                f"Reference: {mask.path.name} names none of the session's {n_scans} scans; it was taken for each."
            )
        notes += [*mask.notes, *(() if brain is None else brain.notes)]
        return BidsScan(name, paths, mask.path, None if brain is None else brain.path, self.rule, tuple(notes))


def _fits(key: str, found: str | None, wanted: Any) -> bool:
    if wanted is None:
        return not found
    allowed = [str(one) for one in (wanted if isinstance(wanted, list) else [wanted])]
    if key == "extension":
        allowed = [f".{one.lstrip('.')}" for one in allowed]
    return bool(found) and any(same_value(key, found, one) for one in allowed)


def _partner(channel: str, first: Entities, candidates: list[Entities]) -> tuple[Entities, list[str]] | str:
    """The image of another channel that goes with the first one's, and what is to be said; or why there is none."""
    near = [one for one in candidates if in_one_space(first, one)]
    if not near:
        return (
            f"its {first['channel']} image lies in {shown_space(first)}, its {channel} image in "
            f"{shown_space(candidates[0])}: choose images of one space and resolution with --bids-filter"
        )
    best = min(_distance(one, first) for one in near)
    tied = [one for one in near if _distance(one, first) == best]
    if len(tied) > 1 and not _differ(tied) <= set(_AS_IF_REPEATED):
        return _which(channel, tied)
    taken = min(tied, key=lambda one: (_number(one.get("run")), one["path"]))
    notes = []
    if taken.get("ce") and not first.get("ce"):
        notes.append(
            f"{channel}: the image is after contrast agent (ce-{taken['ce']}), {first['channel']} is before it."
        )
    if len(near) > 1 and (len(tied) > 1 or any(best[:3])):
        others = ", ".join(Path(one["path"]).name for one in near if one is not taken)
        notes.append(f"{channel}: {Path(taken['path']).name} was taken; also there: {others}.")
    elif taken.get("run") is not None and first.get("run") is not None and best[0]:
        notes.append(
            f"{channel}: {Path(taken['path']).name} was taken, of another run than {Path(first['path']).name}."
        )
    return taken, notes


def _distance(one: Mapping[str, str], first: Mapping[str, str]) -> tuple[int, int, int, int, int, int, int]:
    """How far an image is from belonging to the first channel's, smallest best."""
    run = 0 if same_value("run", one.get("run"), first.get("run")) else 1 if one.get("run") is None else 2
    agent = 0 if one.get("ce") == first.get("ce") else 1 if one.get("ce") is None else 2
    return (
        run,
        agent,
        int(one.get("acq") != first.get("acq")),
        int(space_of(one) != first["suffix"].lower()),  # brought onto the first one's grid already
        int(one.get("rec") != first.get("rec")),
        int(one.get("desc") != first.get("desc")),
        int(one["rank"]),
    )


def _differ(images: Sequence[Mapping[str, str]]) -> set[str]:
    """Entities that are not equal in all of these images."""
    keys = {key for image in images for key in image} - {"path", "channel", "rank"}
    return {key for key in keys if len({image.get(key) for image in images}) > 1}


def _which(channel: str, images: Sequence[Mapping[str, str]]) -> str:
    """Why several images cannot be told apart, and how to choose."""
    long = {short: name for name, short in LONG_NAMES.items()}
    keys = sorted(_differ(images))
    names = ", ".join(Path(image["path"]).name for image in images[:4]) + (", ..." if len(images) > 4 else "")
    wanted = {long.get(key, key): images[0].get(key) for key in keys}
    example = json.dumps({channel: wanted})
    return f"{len(images)} {channel} images ({names}): choose one with --bids-filter, such as {example}"


def _says_less(mask: Mapping[str, str], first: Mapping[str, str]) -> bool:
    return not any(key in mask for key in NAMED_BY[2:] if key in first)


def _number(run: str | None) -> int:
    return int(run) if run is not None and run.isdigit() else -1
