"""Metadata that a camera wrote into a photo: camera, lens, exposure, time and place."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from finetune.messages import marked

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "HEIF")

Place = tuple[float, float]
"""Latitude and longitude in degrees; north and east are positive."""


def read_fields(path: Path) -> tuple[Mapping[int, Any], Mapping[int, Any]]:
    """Returns the EXIF fields of a photo, and those of its place; empty without any.

    Only the header is read.
    """
    fields: dict[int, Any] = {}
    place: dict[int, Any] = {}
    formats = [name for name in _FORMATS if name in Image.OPEN] or None
    # Blocks of EXIF can be broken in every way; what was read before still counts.
    with contextlib.suppress(Exception), Image.open(path, formats=formats) as image:
        block = image.getexif()
        fields.update({tag: block.get(tag) for tag in block})
        fields.update(block.get_ifd(ExifTags.IFD.Exif))
        place.update(block.get_ifd(ExifTags.IFD.GPSInfo))
    return fields, place


def read_place(path: Path) -> Place | None:
    """Returns the place where a photo was taken, or None if it is unknown."""
    return _place(read_fields(path)[1])


def entries(path: Path) -> list[tuple[str, str]]:
    """Returns what the camera wrote into a photo, as names and values for people."""
    fields, gps = read_fields(path)
    base = ExifTags.Base
    place = _place(gps)
    altitude = _number(gps.get(ExifTags.GPS.GPSAltitude))
    found = {
        marked("Camera"): " ".join(
            filter(None, (_text(fields.get(t)) for t in (base.Make, base.Model)))
        ),
        marked("Lens"): _text(fields.get(base.LensModel)),
        marked("Exposure"): _exposure(_number(fields.get(base.ExposureTime))),
        marked("Aperture"): _format("f/{:.3g}", _number(fields.get(base.FNumber))),
        marked("Sensitivity"): _format("ISO {:.0f}", _number(fields.get(base.ISOSpeedRatings))),
        marked("Focal length"): _format("{:.3g} mm", _number(fields.get(base.FocalLength))),
        marked("Taken at"): _text(fields.get(base.DateTimeOriginal) or fields.get(base.DateTime)),
        marked("Place"): "" if place is None else f"{place[0]:.5f}, {place[1]:.5f}",
        marked("Altitude"): _format("{:.0f} m", altitude),
        marked("Photographer"): _text(fields.get(base.Artist)),
        marked("Copyright"): _text(fields.get(base.Copyright)),
    }
    return [(name, value) for name, value in found.items() if value]


def _place(gps: Mapping[int, Any]) -> Place | None:
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef))
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef))
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    # Exactly 0, 0 is what receivers without a fix write.
    return None if latitude == longitude == 0 else (latitude, longitude)


def _degrees(value: Any, reference: Any) -> float | None:
    try:
        parts: list[float | None] = [_number(part) for part in value]
    except TypeError:
        return None
    if not 1 <= len(parts) <= 3 or any(part is None for part in parts):
        return None
    degrees: float = sum((part or 0.0) / 60**power for power, part in enumerate(parts))
    return -degrees if _text(reference).upper() in {"S", "W"} else degrees


def _number(value: Any) -> float | None:
    if isinstance(value, tuple) and value:
        value = value[0]
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _exposure(seconds: float | None) -> str:
    if seconds is None or not 0 < seconds < 1e5:
        return ""
    if seconds >= 0.3:
        return f"{seconds:.3g} s"
    return f"{Fraction(1, max(1, round(1 / seconds)))} s"


def _format(pattern: str, value: float | None) -> str:
    return "" if value is None else pattern.format(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        return ""
    text = value.split("\0", 1)[0]
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
