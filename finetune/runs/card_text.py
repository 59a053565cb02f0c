"""Shared text of model cards."""

from __future__ import annotations

from collections.abc import Sequence

PARTS = ("train", "validation", "test")
"""Columns of photos, and rows of figures."""

KINDS = {"folds": "cross-validated"}
"""Names of the parts in text."""

OF_THE_FOLDS = (
    "The figures of the folds are those of networks trained as this one was, each photo answered "
    "once by one that did not see it (cross-validation)."
)

MOST_LABELS = 200
"""Most rows of the label table; labels.json holds them all."""


def escaped(text: str) -> str:
    """Returns text that Markdown's tables show as it is."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def percent(value: float | None) -> str:
    """Returns a share such as ``87.5%``, or an empty string."""
    return "" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    """Returns a number to three decimals, or an empty string."""
    return "" if value is None else f"{value:.3f}"


def ends(interval: tuple[float, float] | list[float] | None) -> str:
    """Returns an interval such as ``81.0% to 92.3%``, or an empty string."""
    return f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else ""


def weakest(figure: str, judged: str, worst: Sequence[tuple[float, str]]) -> str:
    """Returns a paragraph on the labels of the lowest scores, or an empty string.

    Args:
        figure: What is low, as its first words.
        judged: The part whose photos show it.
        worst: (share, label), the lowest first.
    """
    if not worst:
        return ""
    named = ", ".join(f"{escaped(label)} ({share:.0%})" for share, label in worst)
    return f"\n\n{figure} on {'the folds' if judged == 'folds' else judged}: {named}."
