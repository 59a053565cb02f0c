"""Photo decoder: turns any supported file into upright RGB pixels and EXIF metadata.

* EXIF orientation is applied. EXIF blocks break every rule, so reading them never raises: a field
  that cannot be read is missing.
* An embedded ICC profile is converted to sRGB; a broken one is ignored. CMYK without a profile,
  palette, gray, 1-bit and Lab images become RGB.
* Images of more than 8 bits are scaled to 8 by the range of their values; see `levels`.
* Transparent areas become white.
* Animations and multi-page files give their first frame.
* JPEGs can be decoded at 1/2, 1/4 or 1/8 of their size, which is several times as fast; other
  photos of more than 50 megapixels are averaged down alike, which takes a fraction of the memory.
* The number of pixels is checked before they are allocated.

JPEG, PNG, WebP, TIFF, GIF, BMP, PNM, JPEG 2000 and AVIF are read by Pillow, HEIC by pillow-heif
where it is installed (``pip install 'finetune-photos[heic]'``).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL._imaging
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from finetune.errors import DecodeError
from finetune.malloc import release_memory
from finetune.photos.decode.color import rgb_array
from finetune.photos.decode.exif import Exif, read_exif
from finetune.photos.decode.levels import (
    WIDE_MODES,
    find_levels,
    is_dim,
    low_bytes_mode,
    restore_depth,
)
from finetune.photos.members import read_member

MAX_PIXELS = 178_956_970
"""Limit above which a photo counts as a decompression bomb; equals Pillow's own."""

MAX_BYTES = 2_000_000_000
"""Limit of the memory for decoding one photo."""

LARGE_BYTES = 350_000_000
"""Memory for decoding from which on photos are decoded one at a time."""

RELEASED_BYTES = 100_000_000
"""Memory for decoding from which on it is returned to the system at once."""

# The first five cost no import of further plugins.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "DIB")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"RIFF", b"BM")
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class DecodedPhoto:
    """Pixels and metadata of a photo.

    Attributes:
        image: ``(H, W, 3) uint8`` RGB, upright, contiguous and writable.
        width: Of the upright photo at full size, whatever size `image` has; so is `height`.
        format: Pillow's name of the file format: ``"JPEG"``, ``"PNG"`` ...
        value_range: Range of the stored values in words, where it is not that of their type.
    """

    image: NDArray[np.uint8]
    width: int
    height: int
    format: str
    exif: Exif
    value_range: str | None = None


def read_photo(
    source: Path | bytes, *, min_side_pixels: int | None = None, max_pixels: int = MAX_PIXELS
) -> DecodedPhoto:
    """Returns the pixels of a photo, upright and RGB, with its size and EXIF metadata.

    Safe to call from several threads.

    Args:
        source: A file, or the content of one.
        min_side_pixels: Allows a reduced decode whose shorter side is no smaller than this; None
            decodes at full size.
        max_pixels: Limit of width times height; at most `MAX_PIXELS`.

    Raises:
        DecodeError: The file is missing, unreadable, truncated, too large or not a photo.
    """
    path = None if isinstance(source, bytes) else Path(source)
    try:
        with _pillow_silenced(), _opened(source) as file:
            return _decode(file, min_side_pixels, max_pixels)
    except DecodeError as error:
        raise DecodeError(path, error.reason) from None
    except Exception as error:  # a hostile file makes its parser raise anything at all
        broken = isinstance(error, FileNotFoundError) and path is not None and path.is_symlink()
        reason = "a link to a file that is not there" if broken else _reason(error)
        raise DecodeError(path, reason) from error


def decode_photo(
    source: Path | bytes, *, min_side_pixels: int | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Returns the ``(H, W, 3) uint8`` RGB pixels of a photo, upright; raises as `read_photo`."""
    return read_photo(source, min_side_pixels=min_side_pixels, max_pixels=max_pixels).image


def bytes_needed(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> int:
    """Returns the memory for decoding a photo at full size, from its header alone.

    Raises:
        DecodeError: As `read_photo`, but for damage behind the header.
    """
    path = None if isinstance(source, bytes) else Path(source)
    try:
        with _pillow_silenced(), _opened(source) as file, _open_image(file, max_pixels) as image:
            return _bytes_needed(image, image.width * image.height)
    except DecodeError as error:
        raise DecodeError(path, error.reason) from None
    except Exception as error:  # as in `read_photo`
        raise DecodeError(path, _reason(error)) from error


def photo_exif(source: Path | bytes) -> Exif:
    """Returns the EXIF fields of a photo from its header; none where it cannot be opened.

    Pixels are not decoded; the orientation may be one that decoding applies.
    """
    try:
        with _pillow_silenced(), _opened(source) as file, _open_image(file, MAX_PIXELS) as image:
            return read_exif(image)
    except Exception:  # noqa: BLE001 - as in `read_photo`, which names the reason
        return Exif()


def _open_image(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Returns an image whose header is read."""
    head = file.read(32)
    formats = _formats_of(head)
    file.seek(0)
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        if head.startswith(_SIGNATURES) or formats != _FORMATS:
            raise DecodeError(None, "damaged, or of an unknown kind") from None
        raise
    if image.width * image.height > max_pixels:
        image.close()
        raise Image.DecompressionBombError
    return image


def _decode(file: BinaryIO, min_side_pixels: int | None, max_pixels: int) -> DecodedPhoto:
    with _open_image(file, max_pixels) as image:
        width, height = image.size
        if min_side_pixels is not None:
            side = max(1, min_side_pixels)
            image.draft(None, (side, side))
        needed = _bytes_needed(image, width * height)
        if needed > MAX_BYTES:
            raise DecodeError(
                None, f"too large: it needs {needed / 1e9:.1f} GB, the limit is {MAX_BYTES / 1e9:g}"
            )
        large = needed > LARGE_BYTES
        with _large_turn if large else contextlib.nullcontext():
            rawmode = _rawmode(image)
            image.load()
            exif = read_exif(image)
            levels = find_levels(image) if image.mode in WIDE_MODES else None
            value_range = None if levels is None else levels.note
            if (low_mode := low_bytes_mode(rawmode)) is not None and is_dim(image):
                value_range = restore_depth(image, _low_bytes(file, rawmode, low_mode))
            pixels = rgb_array(
                image, _TURNS.get(exif.orientation), levels, smallest_side=min_side_pixels
            )
            format_name = image.format or ""
            image.close()
            if needed > RELEASED_BYTES:
                release_memory()
    if exif.orientation >= 5:
        width, height = height, width
    return DecodedPhoto(
        image=pixels,
        width=width,
        height=height,
        format=format_name,
        exif=exif,
        value_range=value_range,
    )


def _rawmode(image: Image.Image) -> str:
    """Returns the mode of the stored values of an image that is not loaded yet."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def _low_bytes(file: BinaryIO, rawmode: str, low_mode: str) -> Image.Image:
    """Returns a photo with the low bytes of its 16-bit channels, as `restore_depth` needs it."""
    file.seek(0)
    image = Image.open(file, formats=_FORMATS)
    if rawmode == "LA;16B":
        image.info["gray bytes"] = True
    image.tile = [
        tile._replace(args=(low_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else low_mode)
        for tile in image.tile
    ]
    image.load()
    return image


_BYTES_A_PIXEL = {"1": 1, "L": 1, "P": 1, "LA": 4, "F": 4, "I": 4}
_BYTES_IN_DECODER = {"JPEG2000": 16, "AVIF": 8, "HEIF": 8, "WEBP": 8, "MPO": 6, "JPEG": 6}
"""Bytes a pixel that a decoder holds besides the image; JPEG only if it is progressive."""


def _bytes_needed(image: Image.Image, pixels: int) -> int:
    """Returns the bytes of decoding: the decoder's own, the image, and its RGB pixels.

    When the RGB pixels are resized, Pillow has a copy of them with 4 bytes a pixel.
    """
    drafted = image.width * image.height
    by_decoder = _BYTES_IN_DECODER.get(image.format or "", 0)
    if by_decoder == 6 and "progressive" not in image.info:
        by_decoder = 0
    own = 2 if image.mode.startswith("I;16") else _BYTES_A_PIXEL.get(image.mode, 4)
    if low_bytes_mode(_rawmode(image)) is not None:
        own *= 2  # the low bytes are read where the high ones are dark
    return pixels * by_decoder + drafted * (max(own, 4) + 3)


_large_turn: contextlib.AbstractContextManager[Any] = threading.Lock()


def take_turns_by(turn: contextlib.AbstractContextManager[Any]) -> None:
    """Sets the lock under which one large photo is decoded at a time, for worker processes."""
    global _large_turn
    _large_turn = turn


def is_photo_content(head: bytes) -> bool:
    """Returns whether a file begins as one of a format that can be read, given its first bytes."""
    return (
        head.startswith(_SIGNATURES)
        or head[4:8] == b"ftyp"
        or head[:12] == b"\0\0\0\x0cjP  \r\n\x87\n"
        or head[:4] == b"\xff\x4f\xff\x51"
        or re.match(rb"P[1-6]\s", head) is not None
    )


def is_hostile_format(head: bytes) -> bool:
    """Returns whether a file is decoded by more than the JPEG and PNG decoders.

    Args:
        head: Its first bytes; 4 are enough.
    """
    return not head.startswith((b"\xff\xd8\xff", b"\x89PNG"))


def is_hostile_file(path: str | Path) -> bool:
    """Returns `is_hostile_format` of a file; False where it is none or cannot be read."""
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would block
            return False
        with open(path, "rb") as file:  # noqa: PTH123 - a name may be no UTF-8
            head = file.read(4)
    except (OSError, ValueError):
        return False
    return bool(head) and is_hostile_format(head)


def _formats_of(head: bytes) -> tuple[str, ...]:
    """Returns the Pillow formats to try for a file that starts with `head`; registers HEIC."""
    if not head:
        raise DecodeError(None, "empty file")
    if head[4:8] != b"ftyp":
        return _FORMATS
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, len(head), 4))}
    if brands & {b"avif", b"avis"}:
        if not features.check("avif"):
            raise DecodeError(None, "AVIF needs a newer Pillow: pip install --upgrade pillow")
        return ("AVIF",)
    if brands & _HEIF_BRANDS:
        _register_heif()
        return ("HEIF",)
    return _FORMATS


@functools.cache
def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise DecodeError(
            None,
            "HEIC needs the package 'pillow-heif': pip install 'finetune-photos[heic]'",
        ) from None
    pillow_heif.register_heif_opener()


def _opened(source: Path | bytes) -> contextlib.AbstractContextManager[BinaryIO]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    # Opening a pipe or a device would block, so the kind of file is checked first.
    try:
        mode = Path(source).stat().st_mode
    except (NotADirectoryError, FileNotFoundError):
        content = read_member(Path(source))
        if content is None:
            raise
        return io.BytesIO(content)
    if stat.S_ISDIR(mode):
        os.scandir(source).close()  # a folder that cannot be listed is an error of its own
        raise DecodeError(None, "a folder, not a photo")
    if not stat.S_ISREG(mode):
        raise DecodeError(None, "not a regular file")
    return Path(source).open("rb")


def _reason(error: Exception) -> str:
    """Returns the cause of a failed decode in a few words."""
    text = str(error).lower()
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not a photo"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, OSError) and error.errno is not None:
        return (error.strerror or "cannot be read").lower()
    if isinstance(error, EOFError) or "truncated" in text or "too short" in text:
        return "truncated"
    if "decompress" in text and "too large" in text:
        return "decompression bomb"
    return "damaged"


_silence_lock = threading.Lock()
_silence_depth = 0
_silence: warnings.catch_warnings[None] | None = None


@contextlib.contextmanager
def _pillow_silenced() -> Iterator[None]:
    """Suppresses Pillow's warnings and log lines about odd files.

    ``warnings.catch_warnings`` alone is not thread-safe: of two threads that overlap, the last to
    leave would restore the other's filter for good. Here the first to enter sets the filter, and
    the last to leave restores it.
    """
    global _silence_depth, _silence
    with _silence_lock:
        if _silence_depth == 0:
            _quiet_libtiff()
            logging.getLogger("PIL").setLevel(logging.CRITICAL)
            _silence = warnings.catch_warnings()
            _silence.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\b")
        _silence_depth += 1
    try:
        yield
    finally:
        with _silence_lock:
            _silence_depth -= 1
            if _silence_depth == 0 and _silence is not None:
                _silence.__exit__(None, None, None)
                _silence = None


@functools.cache
def _quiet_libtiff() -> None:
    """Stops libtiff from writing to stderr directly, where Pillow's copy allows it."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(PIL._imaging.__file__)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
