"""What model cards say alike, whatever it is that a photo may have."""

from __future__ import annotations

from collections.abc import Sequence

PARTS = ("train", "validation", "test")
"""Columns of photos, and rows of figures."""

KINDS = {"folds": "cross-validated"}
"""What the photos of a part are called, where it is not the part's name."""

OF_THE_FOLDS = (
    "The figures of the folds are those of networks trained as this one was, each photo answered "
    "once by one that did not see it (cross-validation)."
)

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


def weakest(figure: str, judged: str, worst: Sequence[tuple[float, str]]) -> str:
    """Returns a paragraph that names the labels of the lowest figures; nothing where none has one.

    Args:
        figure: What is low, as its first words.
        judged: The part whose photos show it.
        worst: (share, label), the lowest first.
    """
    if not worst:
        return ""
    named = ", ".join(f"{escaped(label)} ({share:.0%})" for share, label in worst)
    return f"\n\n{figure} on {'the folds' if judged == 'folds' else judged}: {named}."
