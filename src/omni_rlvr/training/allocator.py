"""Keeps freed memory in the process: large tensors come and go in every step of a training run.

glibc hands large blocks back to the system when they are freed, so that each new activation is
cleared page by page; here that was a twentieth of a GRPO step. Other C libraries are left alone.
"""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""``mallopt``'s names, of <malloc.h>."""
KEPT, LARGEST = 2**31 - 1, 2**25
"""In bytes: what may stay unused at the end of the heap; the largest block kept (glibc's limit)."""


def keep_freed_memory() -> bool:
    """Raises both thresholds; returns whether the C library took them."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(MMAP_THRESHOLD, LARGEST), mallopt(TRIM_THRESHOLD, KEPT)])
