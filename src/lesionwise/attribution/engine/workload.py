"""How much is done at once, and what happens when that does not fit into memory."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch

from lesionwise.attribution.sparse.footprint import Footprint
from lesionwise.errors import OutOfMemoryError
from lesionwise.types import Shape

Found = TypeVar("Found")


Strategy = Literal["loop", "batched", "local"]
Pass = tuple[int, int]
"""A window and a view of it (a mirror, a fold): one run of one network."""


@dataclass(frozen=True)
class Schedule:
    """How derivatives are taken, and how much at once.

    `strategy` is described in `Runner`. `batch` windows (of one or more draws) go through the network together,
    `together` cotangents come back behind one another's graph, `kept_windows` graphs are kept where several are needed.
    `recompute` keeps only the inputs of a network's blocks, at the price of one more forward pass.
    """

    strategy: Strategy = "loop"
    batch: int = 1
    together: int = 1
    kept_windows: int = 1
    recompute: bool = False

    def halved(self) -> "Schedule":
        """Half of what can be halved."""
        return replace(
            self,
            batch=max(self.batch // 2, 1),
            together=max(self.together // 2, 1),
            kept_windows=max(self.kept_windows // 2, 1),
        )


@dataclass(eq=False)
class Workload:
    """A schedule at work: an out-of-memory error halves it. `footprints` are those of the present group of instances."""

    schedule: Schedule = field(default_factory=Schedule)
    footprints: dict[Pass, Footprint] = field(default_factory=dict)

    def footprint(self, window: int, view: int) -> Footprint:
        """What the instances of this group need of a window in one view."""
        return self.footprints.setdefault((window, view), Footprint())

    def run(self, run_fn: Callable[[], Found], window: Shape) -> Found:
        """What `run_fn` returns; after an out-of-memory error it is run again with less at once.

        Raises OutOfMemoryError if one `window` at a time does not fit either.
        """
        while True:
            try:
                return run_fn()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                halved = self.schedule.halved()
                if halved == self.schedule:
                    raise OutOfMemoryError(
                        f"One window of {window} voxels does not fit into memory with its derivatives; "
                        "expected more memory, or fewer other programs beside it."
                    ) from error
                self.schedule = halved
            gc.collect()  # outside the handler, so that the failed attempt's tensors are let go of
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors by which PyTorch and Python say that memory is full."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )
