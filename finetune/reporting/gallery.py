"""Selection, order and thumbnails of a report's photos."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, zip_longest
from pathlib import Path

from PIL import Image

from finetune.errors import DecodeError
from finetune.evaluation.predictions import Prediction
from finetune.photos.decode.decoder import decode_photo

LEAST_CONFIDENT = 24
"""Maximum number of photos in the gallery of the least confident predictions."""


def mistakes(predictions: Sequence[Prediction]) -> list[int]:
    """Returns the positions of the wrong predictions, the most confident first."""
    wrong = (k for k, row in enumerate(predictions) if not row.correct)
    return sorted(wrong, key=lambda k: (-predictions[k].probability, predictions[k].path))


def most_confident(predictions: Sequence[Prediction], labels: Sequence[str]) -> list[int]:
    """Returns the position of the most confident photo found for each label, each photo once.

    A label without a photo that has it and is predicted to have it is left out.
    """
    best: dict[str, tuple[float, int]] = {}
    for k, row in enumerate(predictions):
        probabilities = dict(row.ranked)
        for label in set(row.truth) & set(row.predicted_labels):
            probability = probabilities.get(label, 0.0)
            if label not in best or probability > best[label][0]:
                best[label] = (probability, k)
    return list(dict.fromkeys(best[label][1] for label in labels if label in best))


def least_confident(
    predictions: Sequence[Prediction], *, limit: int = LEAST_CONFIDENT
) -> list[int]:
    """Returns the positions of the least confident predictions, the least confident first.

    At most a quarter of the photos, so that the others are more confident in small parts too.
    """
    order = sorted(
        range(len(predictions)), key=lambda k: (predictions[k].probability, predictions[k].path)
    )
    return order[: min(limit, -(-len(order) // 4))]


def choose_photos(
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    *,
    limit: int,
    first: Iterable[int] = (),
) -> list[int]:
    """Returns the positions of at most `limit` photos that get a thumbnail.

    These are the photos in `first`; then the least confident ones and the most confident one of
    each label, for up to a quarter of `limit`; then mistakes, the most confident first; then
    correct photos, one label after the other in turn, so that all cells of the confusion matrix
    have some.
    """
    quarter = chain(least_confident(predictions), most_confident(predictions, labels))
    by_label: defaultdict[str, list[int]] = defaultdict(list)
    for k in sorted(range(len(predictions)), key=lambda k: -predictions[k].probability):
        if predictions[k].correct:
            by_label[predictions[k].label].append(k)
    in_turn = (k for row in zip_longest(*by_label.values()) for k in row if k is not None)
    wanted = chain(first, islice(quarter, max(1, limit // 4)), mistakes(predictions), in_turn)
    return list(islice(dict.fromkeys(wanted), limit))


SHORT_SIDE, LONG_SIDE = 180, 320
"""Maximum sides of a thumbnail in pixels."""

QUALITY = 70


def make_thumbnail(source: Path | bytes) -> bytes:
    """Returns a photo as a small JPEG without any metadata.

    Raises:
        DecodeError: The photo cannot be opened.
    """
    image = Image.fromarray(decode_photo(source, min_side_pixels=SHORT_SIDE))
    scale = min(SHORT_SIDE / min(image.size), LONG_SIDE / max(image.size), 1.0)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY, optimize=True)
    return content.getvalue()


def make_thumbnails(
    root: Path,
    paths: Sequence[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> tuple[Mapping[str, bytes], Mapping[str, str]]:
    """Returns the thumbnails by path, and the reasons of photos that could not be opened.

    Threads are enough, since decoding and resizing release the GIL.

    Args:
        root: Folder that the paths are below.
        paths: Relative paths with ``/``; photos outside the root are not opened.
        progress: Called as ``progress(done, total)``.
        workers: Threads; None: one per CPU core.
    """

    def make(path: str) -> bytes | str:
        try:
            file = root / path
            if not file.resolve().is_relative_to(root.resolve()):
                return "lies outside the collection"
            return make_thumbnail(file)
        except DecodeError as error:
            return error.reason

    made: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for done, (path, found) in enumerate(zip(paths, pool.map(make, paths), strict=True), 1):
            if isinstance(found, bytes):
                made[path] = found
            else:
                failed[path] = found
            if progress is not None:
                progress(done, len(paths))
    return made, failed
