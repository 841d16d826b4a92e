"""Keep memory that was freed for the next pictures, rather than give it back and have it zeroed page by page."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
KEPT = 256 << 20  # bytes of freed memory at the end of a heap
PAD = 64 << 20  # bytes asked of the system at once
LARGEST_IN_HEAP = 32 << 20  # the most that glibc accepts


def keep_freed_memory() -> None:
    """Tell glibc's malloc so for this whole process; nothing happens on other C libraries."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)
    mallopt(M_TRIM_THRESHOLD, KEPT)
    mallopt(M_TOP_PAD, PAD)
