"""Streams of photos: batches that are decoded while others are predicted, in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from finetune.photos.decode.pool import usable_cores

Photo = TypeVar("Photo")
Decoded = TypeVar("Decoded")
Result = TypeVar("Result")


def batch_per_core(
    photos: Iterator[Photo],
    predict: Callable[[Sequence[Photo]], list[Result]],
    *,
    batch_size: int,
    cores: int,
) -> Iterator[list[Result]]:
    """Yields the results of each batch in order; each core decodes and predicts batches of its own.

    If all cores share one batch, every layer waits for the slowest core, the one that also decodes.
    """
    with ThreadPoolExecutor(max_workers=cores, thread_name_prefix="predict") as pool:
        ahead: deque[Future[list[Result]]] = deque()

        def submit() -> bool:
            batch = list(itertools.islice(photos, batch_size))
            if batch:
                ahead.append(pool.submit(predict, batch))
            return bool(batch)

        try:
            while len(ahead) <= cores and submit():
                pass
            while ahead:
                done = ahead.popleft().result()
                submit()
                yield done
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_ahead(
    photos: Iterator[Photo],
    decode: Callable[[Photo], Decoded],
    predict: Callable[[Sequence[Photo], Sequence[Decoded]], list[Result]],
    *,
    batch_size: int,
) -> Iterator[list[Result]]:
    """Yields the results of each batch in order; threads decode the next batches meanwhile."""
    with ThreadPoolExecutor(max(2, usable_cores()), thread_name_prefix="decode") as pool:

        def submit() -> list[tuple[Photo, Future[Decoded]]]:
            batch = list(itertools.islice(photos, batch_size))
            return [(photo, pool.submit(decode, photo)) for photo in batch]

        ahead = deque([submit(), submit()])
        try:
            while ahead:
                batch = ahead.popleft()
                decoded = [future.result() for _, future in batch]
                while len(ahead) < 2 and (more := submit()):
                    ahead.append(more)
                if batch:
                    yield predict([photo for photo, _ in batch], decoded)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
