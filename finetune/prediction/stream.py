"""Any number of photos through a predictor: decoded and answered at once, in their own order."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from finetune.errors import DecodeError
from finetune.photos.decode.pool import usable_cores
from finetune.prediction.inputs import name_of
from finetune.prediction.predictions import PhotoPrediction

if TYPE_CHECKING:
    from finetune.prediction.predictor import Predictor, Squares

SMALLEST_STEP = 4
"""Photos that a network is given at once at least, where each core has a batch of its own."""

FEW = 2 * SMALLEST_STEP
"""Fewer photos than this are soonest done one batch after the other, on all cores."""


def predict_stream(
    predictor: Predictor, photos: Iterable[Any], *, batch_size: int
) -> Iterator[PhotoPrediction]:
    """Yields one prediction a photo; see `Predictor.predict_stream`."""
    waiting = iter(photos)
    first = list(itertools.islice(waiting, FEW))
    cores = min(engine.cores for engine in predictor.engines)
    everything = itertools.chain(first, waiting)
    if cores > 1 and len(first) == FEW:
        yield from _a_batch_a_core(predictor, everything, batch_size, cores)
    else:
        yield from _a_batch_on_all_cores(predictor, everything, batch_size)


def _a_batch_a_core(
    predictor: Predictor, photos: Iterator[Any], batch_size: int, cores: int
) -> Iterator[PhotoPrediction]:
    """Each core decodes photos and answers them, and waits for no other.

    A network that shares its batch out waits for its slowest core in every layer, which is the one
    that decodes beside it.
    """
    size = max(min(SMALLEST_STEP, batch_size), batch_size // cores)
    with (
        ExitStack() as stack,
        ThreadPoolExecutor(max_workers=cores, thread_name_prefix="predict") as pool,
    ):
        own = copy.copy(predictor)
        own.engines = tuple(stack.enter_context(e.side_by_side()) for e in predictor.engines)

        def answered(step: Sequence[Any]) -> list[PhotoPrediction]:
            return _answers(own, step, [_squares_or_reason(own, photo) for photo in step])

        ahead: deque[Future[list[PhotoPrediction]]] = deque()

        def submit() -> bool:
            step = list(itertools.islice(photos, size))
            if step:
                ahead.append(pool.submit(answered, step))
            return bool(step)

        try:
            while len(ahead) <= cores and submit():
                pass
            while ahead:
                done = ahead.popleft().result()
                submit()
                yield from done
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _a_batch_on_all_cores(
    predictor: Predictor, photos: Iterator[Any], batch_size: int
) -> Iterator[PhotoPrediction]:
    """The photos to come are decoded while the network works on these."""
    decoders = max(2, usable_cores())
    with ThreadPoolExecutor(max_workers=decoders, thread_name_prefix="decode") as pool:

        def submit(count: int) -> list[tuple[Any, Future[Squares | str]]]:
            step = list(itertools.islice(photos, count))
            return [(photo, pool.submit(_squares_or_reason, predictor, photo)) for photo in step]

        # The first batches are small, so that the network need not wait for a full one.
        ahead = deque([submit(min(4, batch_size)), submit(min(16, batch_size))])
        try:
            while ahead:
                step = ahead.popleft()
                squares = [future.result() for _, future in step]
                while len(ahead) < 2 and (more := submit(batch_size)):
                    ahead.append(more)
                yield from _answers(predictor, [photo for photo, _ in step], squares)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _squares_or_reason(predictor: Predictor, photo: Any) -> Squares | str:
    try:
        return predictor.squares_of(photo)
    except DecodeError as error:
        return error.reason


def _answers(
    predictor: Predictor, photos: Sequence[Any], squares: Sequence[Squares | str]
) -> list[PhotoPrediction]:
    """Returns a prediction for each photo; one that could not be opened has its reason."""
    good = [(photo, row) for photo, row in zip(photos, squares, strict=True) if type(row) is tuple]
    said = iter(
        predictor.answers([row for _, row in good], names=[name_of(photo) for photo, _ in good])
    )
    return [
        PhotoPrediction(photo=name_of(photo), status=row) if isinstance(row, str) else next(said)
        for photo, row in zip(photos, squares, strict=True)
    ]
