"""Small and screen-sized copies of photos, made once, kept in a folder that may be deleted."""

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
"""A cell of the grid, or the whole screen."""

SIDES: dict[Kind, int] = {"thumb": 320, "view": 1600}
"""The longer side in pixels, at most."""

_QUALITY: dict[Kind, int] = {"thumb": 80, "view": 85}


class Thumbnails:
    """Copies of photos as JPEG without EXIF, upright and in sRGB. May be called from any thread.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._busy: dict[tuple[str, Kind], threading.Lock] = {}
        self._lock = threading.Lock()
        self._decoders: dict[Kind, threading.Semaphore] = {
            # Apart, so that a screenful of cells does not hold up the photo that is looked at.
            "thumb": threading.Semaphore(usable_cores()),
            "view": threading.Semaphore(usable_cores()),
        }

    def has(self, key: str, kind: Kind) -> bool:
        """Returns whether a copy is there already."""
        return self._path(key, kind).is_file()

    def get(
        self, photo: Path, key: str, kind: Kind, *, size: tuple[int, int] | None = None
    ) -> bytes:
        """Returns a copy, made from the photo when there is none.

        Args:
            photo: The file.
            key: Hexadecimal name of this content of it; another key makes another copy.
            kind: How large.
            size: Width and height of the photo where they are known; spares decoding more than is
                needed.

        Raises:
            DecodeError: The photo cannot be opened.
        """
        path = self._path(key, kind)
        with contextlib.suppress(OSError):
            return path.read_bytes()
        with self._alone(key, kind):
            with contextlib.suppress(OSError):
                return path.read_bytes()
            with self._decoders[kind]:
                image = read_photo(photo, min_side_pixels=_shorter_side(kind, size)).image
                jpeg = shrink(image, kind)
            _keep(path, jpeg)
            if kind == "view" and not self.has(key, "thumb"):
                _keep(self._path(key, "thumb"), shrink(image, "thumb"))
        return jpeg

    def _path(self, key: str, kind: Kind) -> Path:
        return self._folder / key[:2] / f"{key}.{kind}.jpg"

    @contextlib.contextmanager
    def _alone(self, key: str, kind: Kind) -> Iterator[None]:
        """Lets one thread make a copy while others wait for it."""
        with self._lock:
            lock = self._busy.setdefault((key, kind), threading.Lock())
        with lock:
            yield
        with self._lock:
            self._busy.pop((key, kind), None)


def _shorter_side(kind: Kind, size: tuple[int, int] | None) -> int:
    """Returns the fewest pixels of the shorter side from which a copy loses nothing."""
    side = SIDES[kind]
    return side if size is None else max(1, math.ceil(side * min(size) / max(size)))


def shrink(image: NDArray[np.uint8], kind: Kind) -> bytes:
    """Returns ``(H, W, 3) uint8`` pixels as a JPEG whose longer side is at most `SIDES`."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDES[kind], SIDES[kind]), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY[kind], optimize=False, progressive=False)
    return buffer.getvalue()


def _keep(path: Path, jpeg: bytes) -> None:
    """Writes a cached copy whole; not synced, since it can be made again."""
    part = path.with_name(f".{path.name}.{threading.get_ident()}.part")
    # A full disk or a read-only folder costs time, not the picture.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(jpeg)
        os.replace(part, path)
