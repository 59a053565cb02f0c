"""CPU threads of torch: one for small operations, which cost less than waking a second thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_PRODUCT = 2e7
"""Floating-point operations of a matrix product below which a second thread does not pay."""


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Sets torch's number of threads for the duration of the block; None leaves it as it is."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for_products(*sides: int) -> int | None:
    """Returns 1 for small matrix products, and None for large ones.

    Thousands of small products by two threads, as of a solver on a few hundred photos, are slower
    than by one, and many times so where another program uses a core: each waits for both threads.

    Example:
        >>> threads_for_products(168, 168, 12), threads_for_products(5000, 1280, 10)
        (1, None)
    """
    operations = 2.0
    for side in sides:
        operations *= side
    return 1 if operations < SMALL_PRODUCT else None
