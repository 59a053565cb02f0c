"""Texts of the pages in the user's language, from gettext catalogs.

The English text is the key. Catalogs lie in ``locale/LANGUAGE/LC_MESSAGES``; ``scripts/translate``
updates them with Babel.
"""

from __future__ import annotations

import gettext
from functools import cache
from pathlib import Path

from starlette.requests import Request

LOCALE_FOLDER = Path(__file__).parent / "locale"

DOMAIN = "annotate"
"""Catalog of the labeling page; that of the prediction page is ``serve``."""

ENGLISH = "en"


def marked(text: str) -> str:
    """Returns a text that is translated later; marks it for Babel."""
    return text


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


@cache
def languages() -> tuple[str, ...]:
    """Returns the languages that there are texts in; English is the first."""
    found = sorted(path.parents[1].name for path in LOCALE_FOLDER.glob(f"*/*/{DOMAIN}.mo"))
    return (ENGLISH, *found)


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


@cache
def translations(language: str, domain: str = DOMAIN) -> gettext.NullTranslations:
    """Returns the texts of a language; English returns each text as it is."""
    if language == ENGLISH:
        return gettext.NullTranslations()
    return gettext.translation(domain, LOCALE_FOLDER, languages=[language])


@cache
def script_messages(language: str, domain: str = DOMAIN) -> dict[str, str | list[str]]:
    """Returns all texts for the scripts of a page; a list for those with a plural."""
    found = translations(language, domain)
    catalog = getattr(found, "_catalog", {})
    result: dict[str, str | list[str]] = {}
    for key, text in catalog.items():
        if isinstance(key, tuple):
            name, _ = key
            forms = result.setdefault(name, [])
            assert isinstance(forms, list)
            forms.append(text)
        elif key:
            result[key] = text
    return result
