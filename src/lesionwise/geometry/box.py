"""A block of voxels of a grid."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsInt

import numpy as np

from lesionwise.errors import InputError
from lesionwise.types import Shape, VoxelArray


@dataclass(frozen=True)
class Box:
    """A block of voxels: `start` inclusive, `stop` exclusive, both in voxels of one grid."""

    start: Shape
    stop: Shape

    def __post_init__(self) -> None:
        if any(b < a for a, b in zip(self.start, self.stop, strict=True)):
            raise InputError(f"A box must not end before it starts, but it goes from {self.start} to {self.stop}.")

    @classmethod
    def whole(cls, shape: Shape) -> "Box":
        """The box that covers a grid of this shape."""
        return cls((0, 0, 0), shape)

    @classmethod
    def around(cls, voxels: VoxelArray, *, margin: int = 0, shape: Shape | None = None) -> "Box":
        """Smallest box that holds all voxels (n, 3), grown by `margin` voxels and cut at the grid's edge."""
        low, high = voxels.min(axis=0) - margin, voxels.max(axis=0) + margin + 1
        if shape is not None:
            low, high = np.maximum(low, 0), np.minimum(high, shape)
        return cls(triple(low), triple(high))

    @property
    def shape(self) -> Shape:
        """Extent in voxels."""
        return triple(np.subtract(self.stop, self.start))

    @property
    def volume(self) -> int:
        """Number of voxels."""
        a, b, c = self.shape
        return a * b * c

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index for the last three axes of an array."""
        a, b = self.start, self.stop
        return (slice(a[0], b[0]), slice(a[1], b[1]), slice(a[2], b[2]))

    @property
    def is_empty(self) -> bool:
        """True if the box holds no voxel."""
        return any(a >= b for a, b in zip(self.start, self.stop, strict=True))

    def shifted(self, offset: Shape) -> "Box":
        """The same box, moved by `offset` voxels."""
        return Box(triple(np.add(self.start, offset)), triple(np.add(self.stop, offset)))

    def relative_to(self, other: "Box") -> "Box":
        """This box in the coordinates of an array cut out by `other`."""
        return self.shifted(triple(np.negative(other.start)))

    def intersection(self, other: "Box") -> "Box":
        """What both boxes share; empty if they do not meet."""
        start = np.maximum(self.start, other.start)
        return Box(triple(start), triple(np.maximum(start, np.minimum(self.stop, other.stop))))

    def union(self, other: "Box") -> "Box":
        """Smallest box that holds both."""
        return Box(triple(np.minimum(self.start, other.start)), triple(np.maximum(self.stop, other.stop)))


def triple(values: Iterable[SupportsInt]) -> Shape:
    """Three numbers, as a shape of Python integers."""
    i, j, k = (int(v) for v in values)
    return i, j, k
