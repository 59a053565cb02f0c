"""Many requests, one network: photos that come within milliseconds are answered as one batch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.prediction.predictions import PhotoPrediction

if TYPE_CHECKING:
    from finetune.prediction.predictor import Predictor, Squares


class Full(Exception):  # noqa: N818 - the standard library calls it so
    """The queue has no place left."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the server takes on at once.

    Attributes:
        queue_photos: Photos that may be waiting or in work; more are refused with 503.
        batch_photos: Most photos in one batch.
        wait_seconds: How long the first photo of a batch waits for others.
        decoders: Threads that open photos.
        max_pixels: Most pixels of a photo.
        body_bytes: Largest body of a request.
        request_photos: Most photos in one request.
        header_seconds: In which the head of a request must have come.
        body_seconds: In which its body must have come.
        answer_seconds: In which it must be answered.
    """

    queue_photos: int = 256
    batch_photos: int = 16
    wait_seconds: float = 0.004
    decoders: int = 2
    max_pixels: int = 64_000_000
    body_bytes: int = 64 << 20
    request_photos: int = 64
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 60.0


class Batcher:
    """Answers photos in batches, in the order in which they were decoded.

    Args:
        predictor: Answers.
        limits: Bounds of queue and batch.
        batched: Told the size of each batch.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        *,
        batched: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._predictor = predictor
        self._limits = limits
        self._batched = batched
        self._places = 0
        self._seconds = 0.05
        self._waiting: asyncio.Queue[tuple[Squares, asyncio.Future[PhotoPrediction]]]
        self._waiting = asyncio.Queue()
        self._decoding = ThreadPoolExecutor(limits.decoders, thread_name_prefix="decode")
        # One thread: the network takes all cores for a batch anyway.
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")

    @property
    def photos(self) -> int:
        """How many photos are waiting or in work."""
        return self._places

    @property
    def retry_seconds(self) -> int:
        """In how many seconds a full queue should have places again."""
        return max(1, round(self._places * self._seconds))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers until the block ends; then finishes what has been taken on."""
        worker = asyncio.create_task(self._work())
        try:
            yield
        finally:
            while self._places:
                await asyncio.sleep(0.01)
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker
            self._decoding.shutdown(wait=True)
            self._network.shutdown(wait=True)

    @contextlib.contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Takes places in the queue while the block runs.

        Raises:
            Full: There are not so many left.
        """
        if self._places + count > self._limits.queue_photos:
            raise Full
        self._places += count
        try:
            yield
        finally:
            self._places -= count

    async def predict(self, content: bytes) -> PhotoPrediction:
        """Returns the answer to one photo's bytes; the caller holds a place for it.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        loop = asyncio.get_running_loop()
        squares = await loop.run_in_executor(self._decoding, self._predictor.squares_of, content)
        answer: asyncio.Future[PhotoPrediction] = loop.create_future()
        await self._waiting.put((squares, answer))
        return await answer

    async def run(self, work: Callable[[], bytes]) -> bytes:
        """Returns what other work on the network's thread gives."""
        return await asyncio.get_running_loop().run_in_executor(self._network, work)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            await self._fill(batch)
            batch = [item for item in batch if not item[1].done()]
            if not batch:
                continue
            self._batched(len(batch))
            started = time.monotonic()
            try:
                answers = await loop.run_in_executor(
                    self._network,
                    self._predictor.predict_squares,
                    [squares for squares, _ in batch],
                )
            except Exception as error:  # noqa: BLE001 - each waiting request must hear of it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            taken = (time.monotonic() - started) / len(batch)
            self._seconds += 0.1 * (taken - self._seconds)
            for (_, future), answer in zip(batch, answers, strict=True):
                # A client that gave up has cancelled its future.
                if not future.done():
                    future.set_result(answer)

    async def _fill(self, batch: list[tuple[Squares, asyncio.Future[PhotoPrediction]]]) -> None:
        """Adds what comes within the waiting time; a lone client is not made to wait for others."""
        deadline = time.monotonic() + self._limits.wait_seconds
        while len(batch) < self._limits.batch_photos:
            left = deadline - time.monotonic()
            if not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            elif left <= 0 or self._places <= len(batch):
                return
            else:
                with contextlib.suppress(TimeoutError):
                    batch.append(await asyncio.wait_for(self._waiting.get(), left))
