"""Small copies of photos for a page: pixels only, nothing of what the camera wrote beside them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from finetune.errors import DecodeError
from finetune.photos.decode.decoder import decode_photo

SHORT_SIDE, LONG_SIDE = 180, 320
"""Most pixels of a thumbnail's sides."""

QUALITY = 76


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

    Threads, as decoding and resizing leave Python's lock alone.

    Args:
        root: Folder that the paths are below.
        paths: Relative paths with ``/``; one that leads out of the root is not opened.
        progress: Called as ``progress(done, total)``.
        workers: Threads; None: one a CPU core.
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
