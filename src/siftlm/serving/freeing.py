"""Memory that is free goes back to the operating system."""

from __future__ import annotations

import ctypes


def trim_memory() -> bool:
    """What the C library keeps between blocks in use, where it is glibc; it keeps as much as it ever needed otherwise.

    A tenth of a second, so for quiet moments. Was there any?
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    return bool(trim(ctypes.c_size_t(0)))
