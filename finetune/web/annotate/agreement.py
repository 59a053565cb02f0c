"""How far two annotators agree beyond chance: Cohen's kappa and what they confuse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

NONE = "none of the labels"
"""Stands for the word that no label fits."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two annotators on the photos that both labeled.

    Attributes:
        annotators: Their names.
        photos: How many photos both labeled.
        agreement: Share of them with the same labels, in [0, 1].
        kappa: Cohen's kappa, 1 for full agreement and 0 for what chance gives; None where both
            used one and the same label throughout.
        labels: Rows and columns of `confusion`, sorted.
        confusion: Photos by the label of the first (rows) and of the second annotator (columns).
    """

    annotators: tuple[str, str]
    photos: int
    agreement: float
    kappa: float | None
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]


def agreements(votes: Iterable[Mapping[str, Sequence[str]]]) -> tuple[Agreement, ...]:
    """Returns the agreement of each pair of annotators that labeled the same photos.

    Args:
        votes: Of each photo the labels that each annotator gave it, by name.
    """
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for photo in votes:
        said = {name: " + ".join(labels) or NONE for name, labels in photo.items()}
        for first, second in combinations(sorted(said), 2):
            pairs.setdefault((first, second), []).append((said[first], said[second]))
    return tuple(_agreement(names, said) for names, said in sorted(pairs.items()))


def _agreement(names: tuple[str, str], said: Sequence[tuple[str, str]]) -> Agreement:
    labels = tuple(sorted({label for pair in said for label in pair}))
    index = {label: number for number, label in enumerate(labels)}
    confusion = [[0] * len(labels) for _ in labels]
    for first, second in said:
        confusion[index[first]][index[second]] += 1
    return Agreement(
        annotators=names,
        photos=len(said),
        agreement=sum(confusion[i][i] for i in range(len(labels))) / len(said),
        kappa=cohen_kappa(confusion),
        labels=labels,
        confusion=tuple(map(tuple, confusion)),
    )


def cohen_kappa(confusion: Sequence[Sequence[int]]) -> float | None:
    """Returns ``(p_o - p_e) / (1 - p_e)`` of a square table of counts; None where ``p_e`` is 1.

    ``p_o`` is the share on the diagonal, ``p_e`` the share there if both kept how often they use
    each label but chose independently (Cohen 1960, "A coefficient of agreement for nominal
    scales", Educational and Psychological Measurement 20(1)).

    Example:
        >>> cohen_kappa([[20, 5], [10, 15]])
        0.4
    """
    rows = [sum(row) for row in confusion]
    total = sum(rows)
    columns = [sum(column) for column in zip(*confusion, strict=True)]
    by_chance = sum(row * column for row, column in zip(rows, columns, strict=True))
    # In whole numbers up to the division, so that full agreement is exactly 1.
    same = sum(confusion[i][i] for i in range(len(confusion)))
    if total * total == by_chance:
        return None
    kappa: float = (total * same - by_chance) / (total * total - by_chance)
    return kappa
