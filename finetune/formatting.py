"""Numbers as text: percentages, counts, durations, intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that control a terminal or reorder text, and bytes of a name that is no UTF-8."""


def visible(text: str, *, keep_bytes: bool = False) -> str:
    r"""Returns text with control characters replaced by visible ones, but for tab and line feed.

    Names of files and labels come from other people; on a terminal, an escape in one could move
    the cursor or hide what follows.

    Args:
        text: The text.
        keep_bytes: Whether bytes of a name that is no UTF-8 stay as they are.

    Example:
        >>> visible("heron\x1b[2J"), visible("\u202egpj.exe")
        ('heron␛[2J', '\\u202egpj.exe')
    """
    if not _INVISIBLE.search(text):
        return text
    return _INVISIBLE.sub(lambda found: _picture(found[0], keep_bytes), text)


def visible_text(value: Any) -> Any:
    """Returns plain text as `visible` does, and any other value of a template as it is."""
    return visible(value) if type(value) is str else value


def visible_json(text: str) -> str:
    r"""Returns JSON with the characters that `visible` replaces escaped, so that it is ASCII there.

    Example:
        >>> visible_json('"\x9b2J"')
        '"\\u009b2J"'
    """
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _picture(character: str, keep_bytes: bool) -> str:
    number = ord(character)
    if number < 0x20:
        return chr(0x2400 + number)
    if number == 0x7F:
        return "␡"
    if 0xDC80 <= number <= 0xDCFF:
        if keep_bytes:
            return character
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def percent(share: float | None, decimals: int = 1) -> str:
    r"""Returns a share as a percentage; only exactly 0 and 1 become 0 % and 100 %.

    Example:
        >>> percent(0.9352), percent(1.0), percent(None)
        ('93.5\u202f%', '100\u202f%', '–')
    """
    if share is None or not math.isfinite(share):
        return "–"
    value, step = share * 100, 10.0**-decimals
    if 0 < value < 100:
        if value < step:
            return f"<\u202f{step:.{decimals}f}\u202f%"
        if value > 100 - step:
            return f">\u202f{100 - step:.{decimals}f}\u202f%"
        return f"{value:.{decimals}f}\u202f%"
    return f"{value:.0f}\u202f%"


def given_percent(share: float) -> str:
    r"""Returns a share that somebody chose as a percentage, with the decimals that it has.

    Example:
        >>> given_percent(0.95), given_percent(0.9925), given_percent(0.99999)
        ('95\u202f%', '99.25\u202f%', '>\u202f99.9\u202f%')
    """
    text = f"{share * 100:.4g}"
    return percent(share) if text == "100" else f"{text}\u202f%"


def number(value: float | None, decimals: int = 3) -> str:
    """Returns a number with fixed decimals, or a dash if it is undefined; never minus zero."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def count(amount: int, one: str, many: str | None = None) -> str:
    """Returns an amount with its noun: ``1 photo``, ``6,310 photos``."""
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"


def signed(value: float, decimals: int = 1) -> str:
    """Returns a number with its sign; never minus zero."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"


def duration(seconds: float) -> str:
    """Returns a duration: ``0.4 s``, ``12 s``, ``3:05 min``, ``2:10 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}:{rest:02d} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours}:{rest:02d} h"


def seconds_of(text: str) -> float:
    """Returns a duration such as ``90s``, ``5m`` or ``1h`` in seconds; a plain number is seconds.

    Raises:
        ValueError: It is none, or not positive.

    Example:
        >>> seconds_of("5m"), seconds_of("1.5 h")
        (300.0, 5400.0)
    """
    units = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
    number_part = text.strip().rstrip("smhin ")
    unit = text.strip()[len(number_part) :].strip() or "s"
    seconds = float(number_part) * units.get(unit, math.nan)
    if not 0 < seconds < math.inf:
        raise ValueError(text)
    return seconds


def interval(ends: Sequence[float] | None) -> str:
    """Returns an interval of shares such as ``88.4–96.5 %``, or an empty string."""
    if not ends:
        return ""
    return f"{ends[0] * 100:.1f}–{ends[1] * 100:.1f}\u202f%"
