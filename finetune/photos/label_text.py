"""Several labels of one photo as one cell of a table, and back."""

from __future__ import annotations

import re
from collections.abc import Sequence

SEPARATOR = "|"
"""Between the labels of a photo that has several; a backslash makes it part of a label."""


def join_labels(labels: Sequence[str]) -> str:
    r"""Returns labels as one cell.

    Example:
        >>> join_labels(["gull", "in flight"])
        'gull|in flight'
    """
    escaped = (label.replace("\\", "\\\\").replace(SEPARATOR, "\\|") for label in labels)
    return SEPARATOR.join(escaped)


def split_labels(cell: str) -> tuple[str, ...]:
    """Returns the labels in a cell, without empty ones; the inverse of `join_labels`."""
    parts = re.findall(r"(?:[^\\|]|\\.?)+", cell, flags=re.DOTALL)
    return tuple(re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts)
