"""glibc malloc settings that keep the memory one batch frees for the next.

By default glibc maps each block of more than 32 MB anew and returns it to the kernel when it is
freed, so that large activations cause a page fault for every 4 kB in every batch. Without them a
MobileNetV2 forward pass takes 45 % less CPU time (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

# Constants of glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8

USER_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Prefixes of environment variables that configure the allocator; they take precedence."""


@functools.cache
def keep_freed_memory() -> bool:
    """Allocates blocks of any size from the heap and keeps what is freed, for the whole process.

    The process stays at its peak size until `release_memory`.

    Returns:
        Whether the settings were applied: only with glibc and without `USER_VARIABLES`.
    """
    chosen = any(name.startswith(USER_VARIABLES) for name in os.environ)
    if chosen or not _is_glibc():
        return False
    libc = ctypes.CDLL(None)
    # A thread's own arena holds 64 MB and shrinks at once, so all threads share one.
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}
    return all(libc.mallopt(option, value) == 1 for option, value in settings.items())


def release_memory() -> None:
    """Returns free memory to the kernel; for the end of a pass over many photos, or of a large one.

    Without glibc, it does nothing.
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
