"""Working images of photos given as paths, bytes, images or pixels; test-time augmentation."""

from __future__ import annotations

import glob
import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from finetune.errors import CollectionError, ConfigError, DecodeError
from finetune.photos.crops import DRAFT_MARGIN, Crop, crop_and_resize, needed_side
from finetune.photos.decode.decoder import MAX_PIXELS
from finetune.photos.decode.isolated import decode_isolated
from finetune.photos.decode.photo_names import is_photo_name
from finetune.photos.preprocessing import Preprocessing
from finetune.photos.scan import find_photos

logger = logging.getLogger(__name__)


def working_image(
    photo: Any,
    preprocessing: Preprocessing,
    *,
    crop: Crop | None = None,
    max_pixels: int = MAX_PIXELS,
    decode_margin: float = DRAFT_MARGIN,
) -> NDArray[np.uint8]:
    """Returns the working image ``(S, S, 3) uint8`` of a photo, pixel for pixel as in training.

    Args:
        photo: A path, the bytes of a file, a PIL image, or ``(H, W, 3) uint8`` RGB pixels.
        preprocessing: Of the network.
        crop: Crop to use instead of the one given by `preprocessing`.
        max_pixels: Larger photos are refused before their pixels are allocated.
        decode_margin: Minimum ratio of the decoded size of a JPEG to the needed one; another than
            that of training is faster, and the pixels differ from those of training.

    Raises:
        DecodeError: The photo cannot be opened.
    """
    size = preprocessing.working_size
    source = source_of(photo)
    if isinstance(source, np.ndarray):
        image = source
    else:
        image = decode_isolated(
            source,
            min_side_pixels=needed_side(size, crop, margin=decode_margin),
            max_pixels=max_pixels,
        )
    return crop_and_resize(
        image,
        size=size,
        fit=preprocessing.fit,
        crop=crop,
        interpolation=preprocessing.interpolation,
    )


def name_of(photo: Any) -> str | None:
    """Returns the path of a photo, or None for bytes, images and pixels."""
    return str(photo) if isinstance(photo, (str, Path)) else None


def _checked(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise DecodeError(
            None, f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}"
        )
    return pixels


def source_of(photo: Any) -> Path | bytes | NDArray[np.uint8]:
    """Returns a photo as a path, bytes or pixels; raises DecodeError."""
    if isinstance(photo, np.ndarray):
        return _checked(photo)
    if isinstance(photo, (str, Path)):
        return Path(photo)
    if isinstance(photo, (bytes, bytearray, memoryview)):
        return bytes(photo)
    if not hasattr(photo, "save"):
        raise DecodeError(
            None,
            f"a photo is a path, bytes, a PIL image or an array, not {type(photo).__name__}",
        )
    # A PIL image goes through the same decoder as files, losslessly; TIFF has every mode.
    buffer = io.BytesIO()
    if photo.mode == "YCbCr":  # Pillow before 13 cannot read its own TIFF of odd sizes
        photo = photo.convert("RGB")
    lossless = photo.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    try:
        photo.save(buffer, format="PNG" if lossless else "TIFF", exif=photo.getexif())
    except (OSError, ValueError, KeyError) as error:
        reason = f"a PIL image of mode {photo.mode} has no lossless file to go through"
        raise DecodeError(None, reason) from error
    return buffer.getvalue()


TTA = Literal[1, 2, 10]
"""1: the photo. 2: it and its mirror image. 10: center and four corners, each with its mirror
image (Krizhevsky et al. 2012, section 4.1)."""


def check_tta(views: int) -> TTA:
    """Returns `views` if test-time augmentation has that many.

    Raises:
        ConfigError: It is not.
    """
    for known in get_args(TTA):
        if views == known:
            chosen: TTA = known
            return chosen
    raise ConfigError(f"--tta {views} is not one of 1, 2, 10.")


def tta_views(images: NDArray[np.uint8], size: int, views: TTA) -> Iterator[NDArray[np.uint8]]:
    """Yields each view of working images, as images of which the network sees the center.

    Args:
        images: ``(B, S, S, 3) uint8``.
        size: Side of the network's input, and of the corners.
        views: Number of views.
    """
    yield images
    if views == 1:
        return
    yield images[:, :, ::-1]
    if views == 2:
        return
    last = images.shape[1] - size
    for top in (0, last):
        for left in (0, last):
            corner = images[:, top : top + size, left : left + size]
            yield corner
            yield corner[:, :, ::-1]


STDIN = "-"


def photos_of(
    sources: Sequence[str | Path], *, stdin: Iterable[str] = (), without: Path | None = None
) -> Iterator[Path]:
    """Yields the photos of paths, folders and patterns, in the order given.

    A folder yields the photos in it at any depth, ``-`` the paths in `stdin`, one a line (or with
    NUL characters between them), and a path with ``*``, ``?`` or ``[`` that does not exist is a
    pattern (``**``: any depth). A missing file, a folder that cannot be listed and a link that
    leads nowhere are yielded too, so that each gets a row with the reason.

    Args:
        sources: Paths, patterns, ``-``.
        stdin: Lines for ``-``.
        without: Folder whose photos are skipped.

    Raises:
        CollectionError: A folder or pattern yields no photos, or a folder cannot be listed.
    """
    apart = None if without is None else Path(os.path.realpath(without))
    for source in sources:
        for path in _expanded(str(source), stdin):
            # Unlike Path.resolve, realpath passes over links that lead in a circle.
            if apart is None or not Path(os.path.realpath(path)).is_relative_to(apart):
                yield path


def _expanded(source: str, stdin: Iterable[str]) -> Iterator[Path]:
    if source == STDIN:
        for line in stdin:
            for name in line.rstrip("\r\n").split("\0"):  # of find -print0
                if name:
                    yield from _expanded_path(Path(name))
        return
    if source.startswith("file://"):
        source = unquote(source.removeprefix("file://"))
    path = Path(source)
    if not os.path.lexists(path) and glob.has_magic(source):
        yield from _matches(source)
    else:
        yield from _expanded_path(path)


def _expanded_path(path: Path) -> Iterator[Path]:
    if not _is_folder(path):
        yield path
        return
    try:
        found = find_photos(path, any_name=True)
    except OSError as error:
        raise CollectionError(
            f"The folder {path} cannot be listed: {(error.strerror or 'error').lower()}."
        ) from error
    if found.other_kinds:
        kinds = ", ".join(f".{kind} ({n:,})" for kind, n in sorted(found.other_kinds.items()))
        logger.warning("%s has camera files of kinds that are not read: %s.", path, kinds)
    # What cannot be read is yielded too: it gets a row with the reason.
    names = sorted([*(file.path for file in found.files), *(bad.path for bad in found.problems)])
    if not names:
        raise CollectionError(f"There are no photos in {path}.")
    for name in names:
        yield path / name


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _matches(pattern: str) -> Iterator[Path]:
    found = False
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - may be absolute
        path = Path(name)
        if is_photo_name(path.name) and not _is_folder(path):
            found = True
            yield path
    if not found:
        raise CollectionError(f"No photo matches {pattern}.")
