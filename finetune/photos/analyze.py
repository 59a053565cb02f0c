"""Analysis of one photo: digest, size, EXIF, hashes, quality and an image for the pixel cache."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from finetune.config import Fit
from finetune.errors import DecodeError
from finetune.photos.collection import PhotoMetadata, Status, pack_hashes
from finetune.photos.crops import Crop, crop_and_resize, load_image, needed_side
from finetune.photos.decode.decoder import DecodedPhoto, read_photo
from finetune.photos.members import read_bytes
from finetune.photos.near_duplicates.hashing import HASH_SIDE_PIXELS, hash_with_mirror
from finetune.photos.quality import MEASURED_SIDE_PIXELS, measure, small_gray

ANALYSIS_VERSION = 2
"""Increased whenever pixels, hashes or quality measures change."""

DIGEST_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeSettings:
    """Size and resampling of the images for the cache; see `photos.crops.crop_and_resize`."""

    size: int
    fit: Fit
    interpolation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NeededOutput:
    """Output needed for a content that was analyzed before."""

    needs_image: bool
    crop: Crop | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Task:
    """File to read.

    Attributes:
        known: Contents that need no analysis, by digest, for files that were moved or copied.
    """

    path: str
    known: Mapping[str, NeededOutput] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """Result of reading one file.

    Attributes:
        reason: Set unless the status is ``ok``.
        digest: Of the content; None if the file could not be read.
        metadata: None if it was known already or could not be measured.
        crop: The crop of `image`.
        image: ``(size, size, 3) uint8``, if needed.
    """

    status: Status
    reason: str | None = None
    digest: str | None = None
    metadata: PhotoMetadata | None = None
    crop: Crop | None = None
    image: NDArray[np.uint8] | None = None


def digest_of(content: bytes) -> str:
    """Returns the BLAKE2b-128 digest of a photo's content in hexadecimal."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def reader_version() -> str:
    """Returns the versions of all decoders; bad files are tried again when it changes."""
    heic = importlib.util.find_spec("pillow_heif") is not None
    return f"{ANALYSIS_VERSION} pillow {PIL.__version__}{' heic' if heic else ''}"


def analyze(task: Task, preprocessing: ResizeSettings | None) -> Analysis:
    """Returns the analysis of a file; never raises for a bad one.

    Args:
        task: The file.
        preprocessing: Of the images for the cache; None makes no images.
    """
    try:
        content = read_bytes(Path(task.path))
    except OSError as error:
        return Analysis(status="unread", reason=(error.strerror or "cannot be read").lower())
    digest = digest_of(content)
    needed = task.known.get(digest)
    try:
        if needed is None:
            return _analyze_content(content, digest, preprocessing)
        image = None
        if needed.needs_image and preprocessing is not None:
            image = _load(content, preprocessing, needed.crop)
        return Analysis(status="ok", digest=digest, crop=needed.crop, image=image)
    except DecodeError as error:
        return Analysis(status="bad", reason=error.reason, digest=digest)
    except MemoryError:
        return Analysis(status="unread", reason="not enough memory to read it")


def _analyze_content(content: bytes, digest: str, preprocessing: ResizeSettings | None) -> Analysis:
    side = max(MEASURED_SIDE_PIXELS, HASH_SIDE_PIXELS)
    needed = needed_side(preprocessing.size) if preprocessing is not None else 0
    decoded = read_photo(content, min_side_pixels=max(side, needed))
    image = None
    if preprocessing is not None and needed >= side:
        image = crop_and_resize(
            decoded.image,
            size=preprocessing.size,
            fit=preprocessing.fit,
            interpolation=preprocessing.interpolation,
        )
    elif preprocessing is not None:
        # Decoded again at its own draft size, so that an image has the same bytes for all callers.
        image = _load(content, preprocessing, None)
    return Analysis(status="ok", digest=digest, metadata=_metadata(digest, decoded), image=image)


def _load(content: bytes, preprocessing: ResizeSettings, crop: Crop | None) -> NDArray[np.uint8]:
    return load_image(
        content,
        size=preprocessing.size,
        fit=preprocessing.fit,
        crop=crop,
        interpolation=preprocessing.interpolation,
    )


def _metadata(digest: str, decoded: DecodedPhoto) -> PhotoMetadata:
    # Computed once: hashes and quality measures need no more detail.
    gray = small_gray(decoded.image)
    quality = measure(gray)
    return PhotoMetadata(
        digest=digest,
        width=decoded.width,
        height=decoded.height,
        format=decoded.format,
        taken_at=decoded.exif.taken_at,
        camera=decoded.exif.camera,
        hashes=pack_hashes(*hash_with_mirror(gray)),
        brightness=quality.brightness,
        contrast=quality.contrast,
        sharpness=quality.sharpness,
        analysis=ANALYSIS_VERSION,
        value_range=decoded.value_range,
    )
