"""Names of photos."""

from __future__ import annotations

import re

_PHOTO_NAME = re.compile(
    r".+\.(jpe?g|jpe|jfif|mpo|png|webp|tiff?|gif|bmp|dib|p[bgpn]m|jp2|j2k|jpx|avifs?|hei[cf]s?|hif)",
    re.IGNORECASE,
)


def is_photo_name(name: str) -> bool:
    """Returns whether a file name has the suffix of a photo."""
    return _PHOTO_NAME.fullmatch(name) is not None
