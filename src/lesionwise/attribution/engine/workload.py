"""How much is done at once, and what happens when that does not fit into memory."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from lesionwise.attribution.sparse.footprint import Footprint
from lesionwise.errors import OutOfMemoryError
from lesionwise.types import Shape

Found = TypeVar("Found")


@dataclass(eq=False)
class Workload:
    """How much is done at once. An out-of-memory error halves it.

    `batch` windows (of one or more draws) go through the network together, `together` cotangents come back behind one
    another's graph, `kept_windows` graphs are kept where several are needed.
    """

    batch: int = 1
    together: int = 1
    kept_windows: int = 1
    footprints: dict[int, Footprint] = field(default_factory=dict)

    def footprint(self, window: int) -> Footprint:
        """What the instances of this group need of a window."""
        return self.footprints.setdefault(window, Footprint())

    def halve(self) -> bool:
        """Halves what can be halved; False if nothing is left to halve."""
        before = (self.batch, self.together, self.kept_windows)
        self.batch, self.together = max(self.batch // 2, 1), max(self.together // 2, 1)
        self.kept_windows = max(self.kept_windows // 2, 1)
        return before != (self.batch, self.together, self.kept_windows)

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
                if not self.halve():
                    raise OutOfMemoryError(
                        f"One window of {window} voxels does not fit into memory with its derivatives; "
                        "expected a smaller window or more memory."
                    ) from error
            gc.collect()  # outside the handler, so that the failed attempt's tensors are let go of
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors by which PyTorch and Python say that memory is full."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )
