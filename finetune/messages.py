"""Texts in the user's language, from gettext catalogs.

The English text is the key. Catalogs lie in ``locale/LANGUAGE/LC_MESSAGES``; ``scripts/translate``
updates them with Babel. Reports and comparisons use `text`, `plural` and `counted`, which translate
into the language of the innermost `in_language`; the pages of the web name theirs.
"""

from __future__ import annotations

import gettext
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from finetune.errors import ConfigError

LOCALE_FOLDER = Path(__file__).parent / "locale"

DOMAIN = "annotate"
"""Catalog of the labeling page; ``serve`` is that of the prediction page."""

REPORT = "report"
"""Catalog of reports and comparisons."""

ENGLISH = "en"

_language: ContextVar[str] = ContextVar("language", default=ENGLISH)


def marked(text: str) -> str:
    """Returns a text that is translated later; marks it for Babel."""
    return text


def marked_plural(one: str, many: str) -> tuple[str, str]:
    """Returns both forms of a text that is translated later; marks them for Babel."""
    return one, many


COUNTED = (
    marked_plural("{count} epoch", "{count} epochs"),
    marked_plural("{count} group", "{count} groups"),
    marked_plural("{count} held-out photo", "{count} held-out photos"),
    marked_plural("{count} label", "{count} labels"),
    marked_plural("{count} mistake", "{count} mistakes"),
    marked_plural("{count} photo", "{count} photos"),
    marked_plural("{count} cross-validated photo", "{count} cross-validated photos"),
    marked_plural("{count} test photo", "{count} test photos"),
    marked_plural("{count} train photo", "{count} train photos"),
    marked_plural("{count} validation photo", "{count} validation photos"),
    marked_plural("{count} prediction", "{count} predictions"),
    marked_plural("{count} run", "{count} runs"),
)
"""What `counted` counts."""


@cache
def languages(domain: str = DOMAIN) -> tuple[str, ...]:
    """Returns the languages that there are texts in; English is the first."""
    found = sorted(path.parents[1].name for path in LOCALE_FOLDER.glob(f"*/*/{domain}.mo"))
    return (ENGLISH, *found)


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


def check_language(language: str | None) -> None:
    """Raises ConfigError if there are no texts of reports in a language."""
    if language is not None and language not in languages(REPORT):
        raise ConfigError(f"--language {language} is not one of {', '.join(languages(REPORT))}.")


@contextmanager
def in_language(language: str | None) -> Iterator[str]:
    """Lets `text`, `plural` and `counted` speak a language; None: the one they speak.

    Raises:
        ConfigError: There are no texts in it.
    """
    check_language(language)
    token = _language.set(language or _language.get())
    try:
        yield _language.get()
    finally:
        _language.reset(token)


def current_language() -> str:
    """Returns the language of the innermost `in_language`."""
    return _language.get()


def text(message: str, /, **values: object) -> str:
    """Returns a text with its values in the current language.

    Example:
        >>> text("{right} of {photos} are right", right=3, photos="4 photos")
        '3 of 4 photos are right'
    """
    found = translations(_language.get(), REPORT).gettext(message)
    return found.format(**values) if values else found


def plural(one: str, many: str, count: int, /, **values: object) -> str:
    """Returns the form of a text for a count, which it names ``{count}``."""
    found = translations(_language.get(), REPORT).ngettext(one, many, count)
    return found.format(count=f"{count:,}", **values)


def counted(amount: int, one: str, many: str | None = None) -> str:
    """Returns an amount with its noun, one of `COUNTED`, as `formatting.count` in English.

    Example:
        >>> counted(6310, "photo")
        '6,310 photos'
    """
    return plural(f"{{count}} {one}", f"{{count}} {many or one + 's'}", amount)
