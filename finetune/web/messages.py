"""Language of a request, and texts that the pages share."""

from __future__ import annotations

from starlette.requests import Request

from finetune.messages import ENGLISH, languages, marked

FAULTS = (
    marked("dark"),
    marked("bright"),
    marked("plain"),
    marked("blurred"),
    marked("tiny"),
    marked("long"),
)
"""Faults of photos as in `finetune.photos.quality`."""


REASONS = (
    marked("a folder, not a photo"),
    marked("a link to a file that is not there"),
    marked("damaged"),
    marked("damaged, or of an unknown kind"),
    marked("decompression bomb"),
    marked("empty file"),
    marked("no permission to read it"),
    marked("no such file"),
    marked("no such file or directory"),
    marked("not a photo"),
    marked("not enough memory to decode it"),
    marked("permission denied"),
    marked("too many pixels"),
    marked("truncated"),
)
"""Reasons why a photo cannot be opened, as in `finetune.photos.decode`."""


def language_of(request: Request) -> str:
    """Returns the language of ``?lang=``, else the browser's first that there are texts in."""
    wished = [request.query_params.get("lang", ""), *_accepted(request)]
    for name in wished:
        short = name.split("-")[0].lower()
        if short in languages():
            return short
    return ENGLISH


def _accepted(request: Request) -> list[str]:
    header = request.headers.get("accept-language", "")[:1000]
    parts = [part.partition(";q=") for part in header.split(",")]

    def weight(text: str) -> float:
        try:
            return float(text or 1)
        except ValueError:
            return 0.0

    return [name.strip() for name, _, q in sorted(parts, key=lambda part: -weight(part[2]))]
