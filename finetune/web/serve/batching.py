"""Dynamic batching: photos that arrive within milliseconds are predicted as one batch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.photos.decode.decoder import bytes_needed
from finetune.prediction.predictions import PhotoPrediction

if TYPE_CHECKING:
    from finetune.prediction.predictor import Predictor, WorkingImages


class QueueFullError(Exception):
    """The queue has no room for more photos."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on the work of the prediction server.

    Attributes:
        queue_photos: Photos waiting or in progress; further ones are refused with 503.
        batch_photos: Maximum photos in a batch.
        wait_seconds: Time that the first photo of a batch waits for others.
        decoders: Threads that decode photos.
        large_bytes: Memory for decoding from which on photos are decoded one at a time, apart from
            the others.
        max_pixels: Maximum pixels of a photo.
        body_bytes: Maximum size of a request body.
        queue_bytes: Bytes of the bodies of all open requests; further ones are refused with 503.
        request_photos: Maximum photos in a request.
        response_seconds: Deadline for the response to a request.
    """

    queue_photos: int = 256
    batch_photos: int = 16
    wait_seconds: float = 0.004
    decoders: int = 2
    large_bytes: int = 100_000_000
    max_pixels: int = 64_000_000
    body_bytes: int = 64 << 20
    queue_bytes: int = 512 << 20
    request_photos: int = 64
    response_seconds: float = 60.0


class Batcher:
    """Predicts photos in batches, in the order in which they were decoded.

    Args:
        predictor: Predicts the batches.
        limits: Bounds on queue and batch.
        on_batch: Called with the size of each batch.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        *,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._predictor = predictor
        self._limits = limits
        self._on_batch = on_batch
        self._photos = 0
        self._seconds = 0.05
        self._waiting: asyncio.Queue[tuple[WorkingImages, asyncio.Future[PhotoPrediction]]]
        self._waiting = asyncio.Queue()
        self._decoding = ThreadPoolExecutor(limits.decoders, thread_name_prefix="decode")
        self._decoding_large = ThreadPoolExecutor(1, thread_name_prefix="decode-large")
        # One thread: the network uses all cores for a batch.
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")

    @property
    def photos(self) -> int:
        """Number of photos waiting or in progress."""
        return self._photos

    @property
    def retry_seconds(self) -> int:
        """Estimated seconds until a full queue has room again."""
        return max(1, round(self._photos * self._seconds))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the batcher in a ``with`` block; at its end, finishes the accepted photos."""
        worker = asyncio.create_task(self._work())
        try:
            yield
        finally:
            while self._photos:
                await asyncio.sleep(0.01)
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker
            self._decoding.shutdown(wait=True)
            self._decoding_large.shutdown(wait=True)
            self._network.shutdown(wait=True)

    @contextlib.contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Reserves room in the queue for the duration of a ``with`` block.

        Raises:
            QueueFullError: There is not enough room.
        """
        if self._photos + count > self._limits.queue_photos:
            raise QueueFullError
        self._photos += count
        try:
            yield
        finally:
            self._photos -= count

    async def predict(self, content: bytes) -> PhotoPrediction:
        """Returns the prediction for one photo's bytes; the caller has reserved room for it.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        loop = asyncio.get_running_loop()
        is_large = await loop.run_in_executor(self._decoding, self._is_large, content)
        images = await loop.run_in_executor(
            self._decoding_large if is_large else self._decoding,
            self._predictor.working_images,
            content,
        )
        future: asyncio.Future[PhotoPrediction] = loop.create_future()
        await self._waiting.put((images, future))
        return await future

    def _is_large(self, content: bytes) -> bool:
        needed = bytes_needed(content, max_pixels=self._limits.max_pixels)
        return needed > self._limits.large_bytes

    async def run(self, work: Callable[[], bytes]) -> bytes:
        """Runs other work on the network's thread and returns its result."""
        return await asyncio.get_running_loop().run_in_executor(self._network, work)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            await self._fill(batch)
            batch = [item for item in batch if not item[1].done()]
            if not batch:
                continue
            self._on_batch(len(batch))
            started = time.monotonic()
            try:
                predictions = await loop.run_in_executor(
                    self._network,
                    self._predictor.predict_images,
                    [images for images, _ in batch],
                )
            except Exception as error:  # noqa: BLE001 - each waiting request gets it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            taken = (time.monotonic() - started) / len(batch)
            self._seconds += 0.1 * (taken - self._seconds)
            for (_, future), prediction in zip(batch, predictions, strict=True):
                # The future of a client that disconnected is cancelled.
                if not future.done():
                    future.set_result(prediction)

    async def _fill(
        self, batch: list[tuple[WorkingImages, asyncio.Future[PhotoPrediction]]]
    ) -> None:
        """Adds photos that arrive within the waiting time; a single client does not wait."""
        deadline = time.monotonic() + self._limits.wait_seconds
        while len(batch) < self._limits.batch_photos:
            left = deadline - time.monotonic()
            if not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            elif left <= 0 or self._photos <= len(batch):
                return
            else:
                with contextlib.suppress(TimeoutError):
                    batch.append(await asyncio.wait_for(self._waiting.get(), left))
