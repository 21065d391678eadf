import ctypes
import resource

import psutil
import pytest

from esm1b.freed_memory import give_back_freed_memory, keep_freed_memory


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="this C library has no malloc_trim; it is tested with glibc",
)
def test_gaps_in_the_heap_are_given_back() -> None:
    blocks = [bytearray(b"1" * 100_000) for _ in range(4_000)]  # 0.4 GB, in the heap
    kept = blocks[::2]
    blocks.clear()
    before = resident()

    give_back_freed_memory()

    assert before - resident() > 150e6
    assert len(kept) == 2_000


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="this C library has no mallopt; it is tested with glibc",
)
def test_freed_memory_is_used_again_without_new_pages() -> None:
    def faults_of_three_megabytes() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(b"1") * (3 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory(256 << 20)
    faults_of_three_megabytes()
    assert faults_of_three_megabytes() < 100  # of 768 pages
