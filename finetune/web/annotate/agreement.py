"""Agreement between annotators: Cohen's kappa and confusion matrix."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

NONE = "none of the labels"
"""Name for an empty set of labels."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of two annotators on the photos that both labeled.

    Attributes:
        annotators: Their names.
        photos: Number of photos that both labeled.
        agreement: Share of them with the same labels, in [0, 1].
        kappa: Cohen's kappa: 1 for full agreement, 0 for chance; None if both used only one label.
        labels: Rows and columns of `confusion`, sorted.
        confusion: Number of photos by label of the first (rows) and second annotator (columns).
    """

    annotators: tuple[str, str]
    photos: int
    agreement: float
    kappa: float | None
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]


def agreements(votes: Iterable[Mapping[str, Sequence[str]]]) -> tuple[Agreement, ...]:
    """Returns the agreement of each pair of annotators who labeled the same photos.

    Args:
        votes: Labels of each photo, by annotator.
    """
    pairs: defaultdict[tuple[str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for photo in votes:
        given = {name: " + ".join(labels) or NONE for name, labels in photo.items()}
        for first, second in combinations(sorted(given), 2):
            pairs[first, second][given[first], given[second]] += 1
    return tuple(_agreement(names, counts) for names, counts in sorted(pairs.items()))


def _agreement(names: tuple[str, str], counts: Counter[tuple[str, str]]) -> Agreement:
    labels = tuple(sorted({label for pair in counts for label in pair}))
    confusion = tuple(tuple(counts[first, second] for second in labels) for first in labels)
    return Agreement(
        annotators=names,
        photos=counts.total(),
        agreement=sum(counts[label, label] for label in labels) / counts.total(),
        kappa=cohen_kappa(confusion),
        labels=labels,
        confusion=confusion,
    )


def cohen_kappa(confusion: Sequence[Sequence[int]]) -> float | None:
    """Returns Cohen's kappa of a confusion matrix: ``(p_o - p_e) / (1 - p_e)``; None if p_e is 1.

    ``p_o`` is the share on the diagonal, ``p_e`` the share expected there if both annotators chose
    independently with the same label frequencies (Cohen 1960, "A coefficient of agreement for
    nominal scales", Educational and Psychological Measurement 20(1)).

    Example:
        >>> cohen_kappa([[20, 5], [10, 15]])
        0.4
    """
    rows = [sum(row) for row in confusion]
    total = sum(rows)
    columns = [sum(column) for column in zip(*confusion, strict=True)]
    expected = sum(row * column for row, column in zip(rows, columns, strict=True))
    # In integers up to the division, so that full agreement is exactly 1.
    agreed = sum(confusion[i][i] for i in range(len(confusion)))
    if total * total == expected:
        return None
    kappa: float = (total * agreed - expected) / (total * total - expected)
    return kappa
