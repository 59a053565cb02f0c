"""Lets the C library keep the memory that one batch frees for the next.

glibc maps each block of more than 32 MB anew and gives it back to the kernel when it is freed, so
that a network's large activations cost a page fault for every 4 kB of them in every batch: on a
virtual machine more time than the network itself (`benchmarks/allocator.py`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

M_TRIM_THRESHOLD = -1
"""glibc's malloc.h: free bytes at the top of the heap from which they are given back."""

M_MMAP_MAX = -4
"""glibc's malloc.h: blocks that may be mapped on their own."""

M_ARENA_MAX = -8
"""glibc's malloc.h: heaps that threads share. One of their own holds 64 MB and shrinks at once."""

WHAT_A_PERSON_MAY_SET = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Starts of variables by which a person chose how memory is got, and is left to it."""


@functools.cache
def keep_freed_memory() -> bool:
    """Makes blocks of any size come from the heap, which keeps what is freed.

    For the whole process, once. The process then stays as large as it ever was, until
    `give_back_memory`.

    Returns:
        Whether it was done: not without glibc, and not where a person has set it otherwise.
    """
    chosen = any(name.startswith(WHAT_A_PERSON_MAY_SET) for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    most = 2**31 - 1  # mallopt takes an int
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: most, M_ARENA_MAX: 1}
    return all(libc.mallopt(option, value) == 1 for option, value in wanted.items())


def give_back_memory() -> None:
    """Gives the kernel what lies free, after work that takes much and will not come again soon."""
    if keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)
