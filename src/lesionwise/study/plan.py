"""Which scans a study has, and which of them this run takes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesionwise.cohort.shard import Shard
from lesionwise.errors import InputError
from lesionwise.io.bids import BidsScan, LeftOut, find_scans
from lesionwise.io.masks import ReferenceRule


@dataclass(frozen=True)
class StudyPlan:
    """Scans of this run, scans that cannot be used, and whose rows of the list of left-out scans this run decides.

    `refused` names those of `scans` that must not be explained, by stem with the reason.
    """

    bids_dir: Path
    out: Path
    scans: tuple[BidsScan, ...]
    left_out: tuple[LeftOut, ...]
    subjects: frozenset[str] | None = None
    shard: Shard = field(default_factory=Shard)
    refused: Mapping[str, str] = field(default_factory=dict)


def plan_study(
    bids_dir: Path,
    out: Path,
    *,
    channels: Sequence[str],
    optional_channels: Sequence[str] = (),
    participants: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    filters: Mapping[str, Mapping[str, Any]] | None = None,
    reference_from: Path | None = None,
    reference_rule: ReferenceRule | None = None,
    brain_masks_from: Path | None = None,
    shard: Shard | None = None,
) -> StudyPlan:
    """Finds the scans (see `lesionwise.io.bids.find_scans`) and takes this run's share.

    Raises InputError if OUT is the data set itself, or as `find_scans`.
    """
    bids_dir, out = Path(bids_dir), Path(out)
    if bids_dir.resolve() == out.resolve():
        raise InputError(f"Expected OUT to be another folder than the data set, found {out} for both.")
    found = find_scans(
        bids_dir,
        channels=channels,
        optional_channels=optional_channels,
        participants=participants,
        sessions=sessions,
        filters=filters,
        reference_from=reference_from,
        reference_rule=reference_rule,
        brain_masks_from=brain_masks_from,
    )
    shard = shard or Shard()
    subjects = None if participants is None else frozenset(p.removeprefix("sub-") for p in participants)
    return StudyPlan(bids_dir, out, shard.of(found.scans), found.left_out, subjects, shard)
