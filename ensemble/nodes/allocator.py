"""What the C library does with memory that a node frees."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""
KEPT = 256 << 20
"""Bytes that stay with the process when they are free."""
LARGEST = 32 << 20
"""The largest block that may be among them, the most that glibc allows."""


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next request; other C libraries go on as they do.

    What was given back the system clears again, page by page, when it is next written to. For a request to
    `l2` that takes a tenth of the time on one thread, and more where several share the memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, LARGEST)
