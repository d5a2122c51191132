"""Which scans a study has, which of them this run takes, and which are finished already."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesionwise.errors import InputError
from lesionwise.io.bids import BidsScan, LeftOut, find_scans
from lesionwise.study.receipts import Receipt, input_stamps
from lesionwise.study.unit import ScanTask, is_served


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1: every count-th scan in the order of names."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`3/8` is the third of eight. Raises InputError for anything else."""
        index, slash, count = text.partition("/")
        if not slash or not index.isdigit() or not count.isdigit() or not 1 <= int(index) <= int(count):
            raise InputError(f"Expected --shard i/n with 1 <= i <= n, such as 3/8, found {text!r}.")
        return cls(int(index), int(count))

    def of(self, scans: Sequence[Any]) -> tuple[Any, ...]:
        """This shard's scans. The shards of one count share nothing and leave nothing out."""
        return tuple(scans[self.index - 1 :: self.count])


@dataclass(frozen=True)
class StudyPlan:
    """Scans of this run, scans that cannot be used, and whose rows of the list of left-out scans this run decides."""

    bids_dir: Path
    out: Path
    scans: tuple[BidsScan, ...]
    left_out: tuple[LeftOut, ...]
    subjects: frozenset[str] | None = None
    shard: Shard = Shard()


def plan_study(
    bids_dir: Path,
    out: Path,
    *,
    channels: Sequence[str],
    participants: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    filters: Mapping[str, Mapping[str, Any]] | None = None,
    reference_from: Path | None = None,
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
        participants=participants,
        sessions=sessions,
        filters=filters,
        reference_from=reference_from,
        brain_masks_from=brain_masks_from,
    )
    shard = shard or Shard()
    subjects = None if participants is None else frozenset(p.removeprefix("sub-") for p in participants)
    return StudyPlan(bids_dir, out, shard.of(found.scans), found.left_out, subjects, shard)


def is_finished(task: ScanTask) -> bool:
    """True if the scan was finished with equal inputs, model, settings and triage, told without opening an image.

    An input counts as equal if its path, size and time stamps are those noted when its content was hashed (as Git
    does); otherwise the unit itself compares the content.
    """
    receipt = Receipt.read(task.files)
    return (
        receipt is not None and receipt.stamps == input_stamps(task.inputs) and is_served(task, receipt, receipt.hashes)
    )
