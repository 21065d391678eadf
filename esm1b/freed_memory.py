"""Memory that the C library keeps after it was freed."""

import ctypes


def give_back_freed_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc.

    Tensors of ever other sizes leave gaps in its heap that it keeps: embedding 4,000 proteins took
    1.1 GB, of which 0.7 GB were free. The next batch touches the pages again, for some 50 ms.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
