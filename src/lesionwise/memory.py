"""Memory of this process: what it may still take, and that what it frees stays with it.

glibc gives blocks above 32 MiB back to the system as soon as they are freed, and asks for them again at the next layer: the
system then clears every page. A 96^3 window of 16 channels is 57 MB; of a DynUNet's processor time nearly half went there.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MEMORY_SHARE = 0.6
"""Of free memory that attributions may hold; the rest is for images, the network and maps on their way to disk."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # numbers of malloc.h
_LARGEST = 2**30
"""Blocks above so many bytes are still given back at once."""


def keep_freed_memory() -> bool:
    """From now on this process keeps what it frees, up to blocks of 1 GiB. Returns True where that was arranged.

    Only glibc offers it (`mallopt`, see its manual). An environment that sets glibc's thresholds itself is left alone:
    `MALLOC_MMAP_THRESHOLD_=33554432` keeps the usual ways.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    set_option = _of_glibc("mallopt")
    kept = set_option(_M_MMAP_THRESHOLD, _LARGEST) and set_option(_M_TRIM_THRESHOLD, 2 * _LARGEST - 1)
    return bool(kept)


def free_memory_bytes() -> int:
    """Memory that this process may still take: the machine's, or what is left of its control group's limit."""
    _give_back()
    bounds = [8 << 30]
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                bounds = [int(line.split()[1]) * 1024]
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        bounds.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    per_cpu, cpus = os.environ.get("SLURM_MEM_PER_CPU", ""), os.environ.get("SLURM_CPUS_ON_NODE", "")
    if os.environ.get("SLURM_MEM_PER_NODE", "").isdigit():
        bounds.append(int(os.environ["SLURM_MEM_PER_NODE"]) << 20)
    elif per_cpu.isdigit() and cpus.isdigit():
        bounds.append((int(per_cpu) * int(cpus)) << 20)
    return max(min(bounds), 1 << 28)


def _give_back() -> None:
    """Lets the system count as free what this process keeps."""
    _of_glibc("malloc_trim")(0)


def _of_glibc(name: str) -> Callable[..., int]:
    """One of its functions; where it is not there (another system, another C library), one that does nothing."""
    try:
        return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
    except (OSError, AttributeError, TypeError):
        return lambda *_: 0
