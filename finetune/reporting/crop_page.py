"""Before and after: photos with the square that was found on them, and what is in it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from finetune.errors import DecodeError
from finetune.files import write_atomically
from finetune.photos.collection import Collection, Photo
from finetune.photos.crops import Crop, square
from finetune.photos.decode.decoder import decode_photo
from finetune.reporting.photo_page import Figure

HEIGHT_PIXELS = 170
_PNG_ROWS = 60
_GAP = 10


def before_and_after(path: Path, crop: Crop) -> tuple[Image.Image, Image.Image]:
    """Returns a small copy of a photo with its square drawn on, and the square itself.

    Raises:
        DecodeError: The photo cannot be opened.
    """
    image = decode_photo(path, min_side_pixels=2 * HEIGHT_PIXELS)
    after = Image.fromarray(square(image, size=HEIGHT_PIXELS, crop=crop))
    before = Image.fromarray(image)
    width = max(1, round(before.width * HEIGHT_PIXELS / before.height))
    before = before.resize((width, HEIGHT_PIXELS), Image.Resampling.BICUBIC, reducing_gap=2.0)
    pen = ImageDraw.Draw(before)
    box = tuple(round(value) for value in crop.box(width, HEIGHT_PIXELS))
    # Dark around light: seen on any background.
    pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="black", width=4)
    pen.rectangle((box[0] + 1, box[1] + 1, box[2] - 2, box[3] - 2), outline="yellow", width=2)
    return before, after


def crop_figures(collection: Collection, photos: Sequence[Photo]) -> list[Figure]:
    """Returns a figure of each photo that has a crop and can be opened."""
    figures = []
    for photo in photos:
        if photo.crop is None:
            continue
        try:
            pair = before_and_after(collection.path_of(photo), photo.crop)
        except DecodeError:
            continue
        words = (f"{photo.path} with its square", f"the square of {photo.path}")
        figures.append(
            Figure(
                pictures=tuple(
                    (_jpeg(image), text) for image, text in zip(pair, words, strict=True)
                ),
                caption=(photo.path, f"{photo.crop.side:.0%} of the shorter side"),
            )
        )
    return figures


def write_crop_png(path: Path, collection: Collection, photos: Sequence[Photo]) -> Path:
    """Writes photos and their squares as one PNG, the first 120 in two columns; returns its path.

    Raises:
        StorageError: The file could not be written.
    """
    pairs: list[tuple[Image.Image, Image.Image]] = []
    for photo in photos:
        if photo.crop is None or len(pairs) == 2 * _PNG_ROWS:
            continue
        try:
            pairs.append(before_and_after(collection.path_of(photo), photo.crop))
        except DecodeError:
            continue
    columns = 2 if len(pairs) > 1 else 1
    wide = max((before.width for before, _ in pairs), default=HEIGHT_PIXELS)
    cell = (wide + HEIGHT_PIXELS + 3 * _GAP, HEIGHT_PIXELS + _GAP)
    rows = max(1, -(-len(pairs) // columns))
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1] + _GAP), "white")
    for number, (before, after) in enumerate(pairs):
        left = number % columns * cell[0] + _GAP
        top = number // columns * cell[1] + _GAP
        sheet.paste(before, (left, top))
        sheet.paste(after, (left + wide + _GAP, top))
    return write_atomically(path, lambda file: sheet.save(file, "PNG"))


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return content.getvalue()
