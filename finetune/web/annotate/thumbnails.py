"""Cache of thumbnails and screen-sized previews."""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.photos.decode.decoder import read_photo
from finetune.photos.decode.pool import usable_cores

Kind = Literal["thumb", "view"]
"""Thumbnail of the grid, or preview as large as the screen."""

FULL_QUALITY = 92

SIDES: dict[Kind, int] = {"thumb": 320, "view": 1600}
"""Maximum length of the longer side in pixels."""

_QUALITY: dict[Kind, int] = {"thumb": 80, "view": 85}


class Thumbnails:
    """Thumbnails as JPEG without EXIF, upright and in sRGB. May be used from any thread.

    Args:
        folder: Folder of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._busy: dict[tuple[str, Kind], threading.Lock] = {}
        self._lock = threading.Lock()
        self._decoders: dict[str, threading.Semaphore] = {
            # Separate, so that a screenful of thumbnails does not delay the current photo.
            "thumb": threading.Semaphore(usable_cores()),
            "view": threading.Semaphore(usable_cores()),
            # One at a time: each takes hundreds of megabytes.
            "full": threading.Semaphore(1),
        }

    def has(self, key: str, kind: Kind) -> bool:
        """Returns whether a thumbnail is cached."""
        return self._path(key, kind).is_file()

    def get(
        self, photo: Path, key: str, kind: Kind, *, size: tuple[int, int] | None = None
    ) -> bytes:
        """Returns the thumbnail of a photo, from the cache if possible.

        Args:
            photo: The file.
            key: Hexadecimal key that changes with the content of the file.
            kind: Size of the thumbnail.
            size: Width and height of the photo, if known; avoids decoding more than needed.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        path = self._path(key, kind)
        with contextlib.suppress(OSError):
            return path.read_bytes()
        with self._exclusive(key, kind):
            with contextlib.suppress(OSError):
                return path.read_bytes()
            with self._decoders[kind]:
                image = read_photo(photo, min_side_pixels=_shorter_side(kind, size)).image
                jpeg = shrink(image, kind)
            _store(path, jpeg)
            if kind == "view" and not self.has(key, "thumb"):
                _store(self._path(key, "thumb"), shrink(image, "thumb"))
        return jpeg

    def full(self, photo: Path) -> bytes:
        """Returns a photo at full size; it is not cached.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        with self._decoders["full"]:
            image = Image.fromarray(read_photo(photo).image)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=FULL_QUALITY)
            return buffer.getvalue()

    def _path(self, key: str, kind: Kind) -> Path:
        return self._folder / key[:2] / f"{key}.{kind}.jpg"

    @contextlib.contextmanager
    def _exclusive(self, key: str, kind: Kind) -> Iterator[None]:
        """Lets one thread make a thumbnail while others wait for it."""
        with self._lock:
            lock = self._busy.setdefault((key, kind), threading.Lock())
        with lock:
            yield
        with self._lock:
            self._busy.pop((key, kind), None)


def _shorter_side(kind: Kind, size: tuple[int, int] | None) -> int:
    """Returns the length of the shorter side that suffices for a thumbnail."""
    side = SIDES[kind]
    return side if size is None else max(1, math.ceil(side * min(size) / max(size)))


def shrink(image: NDArray[np.uint8], kind: Kind) -> bytes:
    """Returns ``(H, W, 3) uint8`` pixels as a JPEG whose longer side is at most `SIDES`."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDES[kind], SIDES[kind]), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY[kind], optimize=False, progressive=False)
    return buffer.getvalue()


def _store(path: Path, jpeg: bytes) -> None:
    """Writes a thumbnail atomically, without fsync."""
    part = path.with_name(f".{path.name}.{threading.get_ident()}.part")
    # With a full disk or a read-only folder nothing is cached.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(jpeg)
        os.replace(part, path)
