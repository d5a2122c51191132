"""Progress within a unit of work: told by whoever does it, heard by the runner, in the same process or through its pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

WithinFn = Callable[[str, str, int, int], None]
"""(unit, stage, done, total)."""

EVERY_S = 1.0
"""A process that is listened to through a pipe speaks no oftener than this, the ends of stages apart."""


class Step(NamedTuple):
    """One message of a worker: `done` of `total` steps of a unit's stage."""

    unit: str
    stage: str
    done: int
    total: int


_listener: WithinFn | None = None


def tell(unit: str, stage: str, done: int, total: int) -> None:
    """Says how far a unit is; nothing happens where nobody listens, as on a cluster."""
    if _listener is not None:
        _listener(unit, stage, done, total)


@contextmanager
def listening(within_fn: WithinFn | None) -> Iterator[None]:
    """For this long `within_fn` hears what units of this process tell."""
    global _listener
    before, _listener = _listener, within_fn
    try:
        yield
    finally:
        _listener = before


def through(send_fn: Callable[[Step], None], *, every_s: float = EVERY_S) -> WithinFn:
    """A listener that sends steps on, not too often."""
    last = [-every_s]

    def send(unit: str, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - last[0] >= every_s:
            last[0] = now
            send_fn(Step(unit, stage, done, total))

    return send
