"""Settings of the process that training and prediction on the CPU want; set by entry points, never on import."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def tune_cpu() -> bool:
    """Lets glibc's malloc keep and reuse large blocks.

    By default each block above 32 MB, such as an activation, is mapped afresh from the kernel and returned when freed,
    so that every pass through a network touches new pages, each a page fault. Kept, they are faulted in once.

    Returns:
        whether it was done: not with another C library, nor where MALLOC_ or GLIBC_TUNABLES in the environment say
        what the user wants.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 64 << 20))
    done = [mallopt(name, value) for name, value in settings]
    return all(done)
