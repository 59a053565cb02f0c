"""EXIF fields of a photo: orientation, time of the exposure, camera."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

_TIMES = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.SubsecTimeDigitized),
    (ExifTags.Base.DateTime, ExifTags.Base.SubsecTime),
)
_TIME_PATTERN = re.compile(r"\s*(\d{4})\D(\d\d)\D(\d\d)\D(\d\d)\D(\d\d)\D(\d\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Exif:
    """EXIF fields of a photo.

    Attributes:
        orientation: From 1 to 8; 1 where it is missing or invalid. Already applied to the pixels
            of a `DecodedPhoto`.
        taken_at: Local time of the exposure as ``2024-05-01T12:30:00``, with a fraction of a second
            if the file has one; None if unknown.
        camera: Maker and model, the maker named once; None if unknown.
        place: Latitude and longitude in degrees, north and east positive; None if unknown.
    """

    orientation: int = 1
    taken_at: str | None = None
    camera: str | None = None
    place: tuple[float, float] | None = None


def read_exif(image: Image.Image) -> Exif:
    """Returns the EXIF fields of an image; never raises.

    Args:
        image: An image after ``load()``, since some formats rotate their pixels while loading.
    """
    try:
        block = image.getexif()
    except Exception:  # noqa: BLE001 - a broken block raises whatever its parser met first
        return Exif()
    fields = {tag: _field(block, tag) for tag in list(block)}
    with contextlib.suppress(Exception):  # as above; the fields of the first block still count
        fields.update(block.get_ifd(ExifTags.IFD.Exif))
    orientation = fields.get(ExifTags.Base.Orientation)
    return Exif(
        orientation=orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        taken_at=_taken_at(fields),
        camera=_camera(
            _text(fields.get(ExifTags.Base.Make)), _text(fields.get(ExifTags.Base.Model))
        ),
        place=_place(block),
    )


def _field(block: Image.Exif, tag: int) -> Any:
    try:
        return block.get(tag)
    except Exception:  # noqa: BLE001 - values are parsed on access
        return None


def _taken_at(fields: Mapping[int, Any]) -> str | None:
    for tag, fraction_tag in _TIMES:
        match = _TIME_PATTERN.match(_text(fields.get(tag)))
        if not match:
            continue
        try:
            moment = datetime.strptime(" ".join(match.groups()), "%Y %m %d %H %M %S")
        except ValueError:  # 0000:00:00 is what a camera without a set clock writes
            continue
        fraction = _text(fields.get(fraction_tag))
        digits = fraction.rstrip("0") if fraction.isdecimal() and fraction.isascii() else ""
        return moment.isoformat() + (f".{digits[:6]}" if digits else "")
    return None


def _place(block: Image.Exif) -> tuple[float, float] | None:
    try:
        gps = block.get_ifd(ExifTags.IFD.GPSInfo)
        latitude = _degrees(gps[ExifTags.GPS.GPSLatitude])
        longitude = _degrees(gps[ExifTags.GPS.GPSLongitude])
        south = _text(gps.get(ExifTags.GPS.GPSLatitudeRef)).upper().startswith("S")
        west = _text(gps.get(ExifTags.GPS.GPSLongitudeRef)).upper().startswith("W")
    except Exception:  # noqa: BLE001 - as in `read_exif`: missing, or of any type at all
        return None
    # A receiver without a fix writes zeros, or 0/0, which is NaN.
    if not (0 <= latitude <= 90 and 0 <= longitude <= 180) or latitude == longitude == 0:
        return None
    return (-latitude if south else latitude), (-longitude if west else longitude)


def _degrees(parts: Any) -> float:
    whole, minutes, seconds = (float(part) for part in parts)
    return whole + minutes / 60 + seconds / 3600


def _camera(make: str, model: str) -> str | None:
    # Nikon writes "NIKON CORPORATION" and "NIKON D70": the model alone names the maker too.
    if make and model.casefold().startswith(make.split()[0].casefold()):
        make = ""
    return f"{make} {model}".strip() or None


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        return ""
    # Fixed-width fields are padded with NULs or blanks; anything after the first NUL is rubbish.
    text = value.split("\0", 1)[0]
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:100]
