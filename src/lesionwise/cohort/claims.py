"""Who works on a scan: a small file per scan, so that two runs on one OUT share the work instead of doing it twice.

A claim saves work, it does not guard data: every file is written whole and equal work gives equal files, so two runs
that both believe to own a scan only waste time. A claim ends when its owner lets go, when its owner is found dead (on
the same machine), or when its owner's heartbeat has not been seen for `EXPIRY_S` (anywhere): by the clock of the file
system, or, where that cannot be right, by having watched it for so long.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from uuid import uuid4

EXPIRY_S = 120.0
"""A claim without a heartbeat for this long is free."""

HEARTBEAT_S = 20.0


@dataclass(eq=False)
class Claim:
    """A scan that is ours until the `with` block ends."""

    path: Path
    token: str
    _stop: threading.Event = field(default_factory=threading.Event)
    _pulse: threading.Thread | None = None

    @classmethod
    def take(cls, path: Path, *, expiry_s: float = EXPIRY_S, heartbeat_s: float = HEARTBEAT_S) -> "Claim | None":
        """Claims `path`, or returns None while somebody else has it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):  # a dead owner's claim is removed, then everybody may try again
            claim = cls(path, uuid4().hex)
            if claim._create():
                claim._pulse = threading.Thread(target=claim._beat, args=(heartbeat_s,), daemon=True)
                claim._pulse.start()
                return claim
            if not _abandoned(path, expiry_s):
                return None
            _remove_abandoned(path)
        return None

    def release(self) -> None:
        """Lets go; somebody else's claim on the same scan is left alone."""
        self._stop.set()
        if _read(self.path).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as stream:
            json.dump({"token": self.token, "place": _place(), "pid": os.getpid(), "born": _born(os.getpid())}, stream)
        return True

    def _beat(self, heartbeat_s: float) -> None:
        while not self._stop.wait(heartbeat_s):
            try:
                os.utime(self.path)
            except OSError:
                return  # taken over or removed: nothing to keep alive


def sweep(path: Path, *, expiry_s: float = EXPIRY_S) -> None:
    """Removes a claim whose owner died: of a finished scan nobody else would."""
    if path.exists() and _abandoned(path, expiry_s):
        _remove_abandoned(path)


def _abandoned(path: Path, expiry_s: float) -> bool:
    owner = _read(path)
    if owner.get("place") == _place() and os.name == "posix":
        return not _alive(owner.get("pid"), owner.get("born"))
    try:
        last = path.stat().st_mtime
    except FileNotFoundError:
        return True
    if _file_system_time(path.parent) - last > expiry_s:
        return True
    # a heartbeat stamped in the future never grows old by the clock: it is dead if it does not move while we watch
    seen, now = _watched.get(path), time.monotonic()
    if seen is None or seen[0] != last:
        _watched[path] = (last, now)
        return False
    return now - seen[1] > expiry_s


_watched: dict[Path, tuple[float, float]] = {}
"""Heartbeat of a claim of somebody else, and when (by our own monotonic clock) it was first seen at that."""


def _remove_abandoned(path: Path) -> None:
    """Removes it under a name of our own first: of several that try, one succeeds."""
    grave = path.with_name(f".{uuid4().hex[:12]}.tmp.{path.name}")
    try:
        os.replace(path, grave)
    except FileNotFoundError:
        return
    grave.unlink(missing_ok=True)


def _file_system_time(folder: Path) -> float:
    """The clock that stamps files there: on a network file system not this machine's."""
    probe = folder / f".{uuid4().hex[:12]}.tmp.clock"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _place() -> str:
    """Machine, boot and process namespace: where a process number means the same process."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> str:
    """When a process started, so that a number used again is not taken for its owner; empty where /proc is missing.

    A process that has ended and waits to be collected counts as not born.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if facts[0] in ("Z", "X") else facts[19]
    except (OSError, IndexError):
        return ""


def _alive(pid: object, born: object) -> bool:
    if not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not born or _born(pid) == born
