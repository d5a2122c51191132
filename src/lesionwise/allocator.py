"""Memory that a process has freed stays with it, so that large tensors are not cleared by the system each time anew.

glibc gives blocks above 32 MiB back to the system as soon as they are freed, and asks for them again at the next layer: the
system then clears every page. A 96^3 window of 16 channels is 57 MB; of a DynUNet's processor time a third goes there.
"""

import ctypes
import os

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
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another system, or another C library
        return False
    return bool(set_option(_M_MMAP_THRESHOLD, _LARGEST)) and bool(set_option(_M_TRIM_THRESHOLD, 2 * _LARGEST - 1))
