import ctypes

import psutil
import pytest

from esm1b.freed_memory import FreedMemory

_HAS_TRIM = hasattr(ctypes.CDLL(None), "malloc_trim")


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(not _HAS_TRIM, reason="this C library has no malloc_trim; glibc runs it")
def test_gaps_in_the_heap_are_given_back_once_the_process_has_grown() -> None:
    freed = FreedMemory()
    freed.give_back()
    blocks = [bytearray(100_000) for _ in range(4_000)]  # touched: 0.4 GB, in the heap
    for block in blocks:
        block[::4096] = b"1" * len(block[::4096])
    kept = blocks[::2]
    blocks.clear()
    before = resident()

    freed.give_back()

    assert before - resident() > 150e6
    assert len(kept) == 2_000


@pytest.mark.skipif(not _HAS_TRIM, reason="this C library has no malloc_trim; glibc runs it")
def test_nothing_is_given_back_while_the_process_stays_as_it_is() -> None:
    blocks = [bytearray(100_000) for _ in range(2_000)]
    for block in blocks:
        block[::4096] = b"1" * len(block[::4096])
    kept = blocks[::2]
    blocks.clear()
    freed = FreedMemory()
    before = resident()

    freed.give_back()
    freed.give_back()

    assert abs(before - resident()) < 20e6
    assert len(kept) == 1_000
