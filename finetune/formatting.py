"""Numbers as text: percentages, counts, durations, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence


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


def number(value: float | None, decimals: int = 3) -> str:
    """Returns a number with fixed decimals, or a dash if it is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


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
