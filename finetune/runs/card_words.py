"""What the tables of a model card are made of, whatever it is that a photo may have."""

from __future__ import annotations

PARTS = ("train", "validation", "test")
"""Columns of photos, and rows of figures."""

MOST_LABELS = 200
"""A table that is longer helps nobody; labels.json holds them all."""


def escaped(text: str) -> str:
    """Returns text that Markdown's tables show as it is."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def percent(value: float | None) -> str:
    """Returns a share such as ``87.5%``; nothing where it is not defined."""
    return "" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    """Returns a figure to three decimals; nothing where it is not defined."""
    return "" if value is None else f"{value:.3f}"


def ends(interval: tuple[float, float] | list[float] | None) -> str:
    """Returns an interval such as ``81.0% to 92.3%``; nothing where there is none."""
    return f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else ""
