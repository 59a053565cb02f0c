"""Possible labels: a list, or a table with the months and places in which each can be met."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.formatting import count
from finetune.photos.decode.exif import Exif
from finetune.photos.labels import nfc
from finetune.spreadsheets import unguard

COLUMNS = ("label", "months", "box")

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, kw_only=True)
class Box:
    """Area between two parallels and two meridians, in degrees.

    Attributes:
        west: May be east of `east`: the box then crosses the 180th meridian.
    """

    south: float
    west: float
    north: float
    east: float

    def has(self, latitude: float, longitude: float) -> bool:
        """Returns whether a place is in the box."""
        if not self.south <= latitude <= self.north:
            return False
        if self.west <= self.east:
            return self.west <= longitude <= self.east
        return longitude >= self.west or longitude <= self.east


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Months and place in which a label can be met.

    Attributes:
        months: From 1 to 12; None: all year.
        box: None: everywhere.
    """

    months: frozenset[int] | None = None
    box: Box | None = None

    def allow(self, exif: Exif) -> bool:
        """Returns whether the label is possible; a photo without a date or place rules out none."""
        month = exif.taken_at and int(exif.taken_at[5:7])
        if self.months is not None and month and month not in self.months:
            return False
        if self.box is not None and exif.place is not None:
            return self.box.has(*exif.place)
        return True


ANYWHERE = Limits()


@dataclass(frozen=True, kw_only=True)
class Restriction:
    """Labels that are possible.

    Attributes:
        source: The file, for messages.
        limits: By label; a label with several rows is possible where one of them allows it.
    """

    source: str
    limits: Mapping[str, tuple[Limits, ...]]

    @property
    def needs_exif(self) -> bool:
        """Whether it depends on the date or place of a photo."""
        return any(one != ANYWHERE for rows in self.limits.values() for one in rows)

    def of_labels(self, labels: Sequence[str]) -> Restriction:
        """Returns the restriction to some labels.

        Raises:
            ConfigError: None of the labels is possible.
        """
        found = {label: self.limits[label] for label in labels if label in self.limits}
        if not found:
            first = next(iter(self.limits), "")
            raise ConfigError(
                f"--only {self.source} has none of the run's labels ({', '.join(labels[:4])} ...); "
                f"its first is {first!r}."
            )
        return Restriction(source=self.source, limits=found)

    def possible(self, labels: Sequence[str], exif: Exif) -> NDArray[np.bool_]:
        """Returns which labels are possible for a photo, ``(C,)``."""
        return np.array(
            [any(one.allow(exif) for one in self.limits.get(label, ())) for label in labels]
        )

    def describe(self, labels: Sequence[str]) -> str:
        """Returns in words which labels of a run are struck out for all photos."""
        gone = [label for label in labels if label not in self.limits]
        more = f" and {len(gone) - 6} more" if len(gone) > 6 else ""
        struck = f"; struck out: {', '.join(gone[:6])}{more}" if gone else ""
        others = len(self.limits.keys() - set(labels))
        beside = f" {count(others, 'further name')} in the file: no label of the run."
        return (
            f"Possible by {self.source}: {len(labels) - len(gone):,} of {len(labels):,} labels"
            f"{struck}.{beside if others else ''}"
        )


def read_restriction(path: Path) -> Restriction:
    """Returns the possible labels of a text file with one a line, or of a table.

    A table has the columns ``label``, and ``months`` (``3-10``, ``nov-feb``, ``4,5,9``) or ``box``
    (``south west north east`` in degrees), or both. An empty cell sets no limit.

    Raises:
        ConfigError: The file cannot be read, or a row is not understood; the message names the
            line.
    """
    import csv
    import io

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"--only {path} cannot be read: {reason}.") from error
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = next((mark for mark in (",", ";", "\t") if mark in first), ",")
    header = [cell.strip().casefold() for cell in first.split(delimiter)]
    if header[0] != "label":
        names = [nfc(unguard(line.strip())) for line in lines if line.strip()]
        if not names:
            raise ConfigError(f"--only {path} is empty; write one label a line.")
        return Restriction(source=str(path), limits=dict.fromkeys(names, (ANYWHERE,)))
    strange = [name for name in header if name not in COLUMNS]
    if strange:
        raise ConfigError(
            f"--only {path}: the column {strange[0]!r} is none of {', '.join(COLUMNS)}."
        )
    limits: dict[str, tuple[Limits, ...]] = {}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    next(row for row in reader if any(cell.strip() for cell in row))
    for row in reader:
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        if not any(cells.values()):
            continue
        where = f"--only {path}, line {reader.line_num}"
        label = nfc(unguard(cells["label"]))
        if not label:
            raise ConfigError(f"{where}: it has no label.")
        limit = Limits(
            months=_months(cells.get("months", ""), where), box=_box(cells.get("box", ""), where)
        )
        limits[label] = (*limits.get(label, ()), limit)
    if not limits:
        raise ConfigError(f"--only {path} has no label below its first line.")
    return Restriction(source=str(path), limits=limits)


def _months(text: str, where: str) -> frozenset[int] | None:
    """Returns the months of ``3-10``, ``nov-feb`` or ``4, 5, 9``; None for an empty cell."""
    found: set[int] = set()
    for part in re.split(r"[,;\s]+(?![-–])", re.sub(r"\s*[-–]\s*", "-", text.strip())):
        if not part:
            continue
        ends = [_month(end) for end in part.split("-")]
        if len(ends) > 2 or None in ends:
            raise ConfigError(
                f"{where}: {part!r} is no month; write 3-10, nov-feb, or numbers from 1 to 12."
            )
        first, last = (end or 0 for end in (ends[0], ends[-1]))
        found |= {(first - 1 + step) % 12 + 1 for step in range((last - first) % 12 + 1)}
    return frozenset(found) if found else None


def _month(text: str) -> int | None:
    if text.isdecimal() and 1 <= int(text) <= 12:
        return int(text)
    short = text.casefold()[:3]
    return _MONTHS.index(short) + 1 if len(text) >= 3 and short in _MONTHS else None


def _box(text: str, where: str) -> Box | None:
    if not text:
        return None
    try:
        south, west, north, east = (float(part) for part in re.split(r"[,;\s]+", text.strip()))
    except ValueError:
        south, west, north, east = 1.0, 0.0, 0.0, 0.0
    if not (-90 <= south <= north <= 90 and abs(west) <= 180 and abs(east) <= 180):
        raise ConfigError(
            f"{where}: the box {text!r} must be south, west, north and east in degrees, such as "
            "47 5 55 15."
        )
    return Box(south=south, west=west, north=north, east=east)
