"""A share of a cohort, for job arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from lesionwise.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1: every count-th scan in the order of names."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`3/8` is the third of eight. Raises InputError for anything else."""
        index, slash, count = text.partition("/")
        if not slash or not index.isdecimal() or not count.isdecimal() or not 1 <= int(index) <= int(count):
            raise InputError(f"Expected --shard i/n with 1 <= i <= n, such as 3/8, found {text!r}.")
        return cls(int(index), int(count))

    @property
    def is_whole(self) -> bool:
        """True if this is all of the cohort."""
        return self.count == 1

    def of(self, scans: Sequence[T]) -> tuple[T, ...]:
        """This shard's scans. The shards of one count share nothing and leave nothing out."""
        return tuple(scans[self.index - 1 :: self.count])
