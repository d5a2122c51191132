"""What a process frees stays with it: counted in pages that the system had to clear."""

import os
import subprocess
import sys

import pytest

PAGES = """
import resource, sys
from lesionwise.memory import keep_freed_memory
arranged = keep_freed_memory() if sys.argv[1] == "kept" else False
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize()
b"1" * 2**26
before = count()
for _ in range(4):
    b"1" * 2**26
print(arranged, (count() - before) // 2**20)
"""


def cleared_mib(way: str, **environment: str) -> tuple[bool, int]:
    usual = {
        name: value for name, value in os.environ.items() if name not in ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    }
    done = subprocess.run(
        [sys.executable, "-c", PAGES, way], capture_output=True, text=True, check=True, env=usual | environment
    )
    arranged, mib = done.stdout.split()
    return arranged == "True", int(mib)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is found on Linux")
def test_large_blocks_are_cleared_once():
    arranged, mib = cleared_mib("kept")
    if not arranged:
        pytest.skip("another C library than glibc")
    assert mib < 16
    assert cleared_mib("usual")[1] > 200, "the usual way clears them each time: otherwise there is nothing to gain"


def test_an_environment_that_sets_the_thresholds_is_left_alone():
    assert not cleared_mib("kept", MALLOC_MMAP_THRESHOLD_="33554432")[0]
    assert not cleared_mib("kept", GLIBC_TUNABLES="glibc.malloc.trim_threshold=1048576")[0]
