"""Confusion matrix as an array, a CSV file and an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from finetune.errors import RunError
from finetune.evaluation.probabilities import Integers
from finetune.fonts import draw_text, fitted, has_glyphs, text_width
from finetune.spreadsheets import guard, read_csv, unguard, write_csv

CORNER = "truth \\ predicted"


def confusion_matrix(targets: ArrayLike, predicted: ArrayLike, label_count: int) -> Integers:
    """Returns the confusion matrix: true labels in rows, predicted ones in columns.

    Args:
        targets: ``(N,)`` true indices.
        predicted: ``(N,)`` predicted indices.
        label_count: C; labels that occur in neither keep their empty row and column.

    Returns:
        ``(C, C) int64``; the sum is N, the diagonal counts the correct predictions.

    Example:
        >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
        [[1, 1], [0, 1]]
    """
    cells = np.asarray(targets, dtype=np.int64) * label_count + np.asarray(predicted, np.int64)
    counts = np.bincount(cells, minlength=label_count * label_count)
    return counts.reshape(label_count, label_count).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """Counts behind precision, recall and F1, ``(..., C)`` each.

    Attributes:
        hits: Correctly predicted photos of the label.
        photos: Photos of the label.
        predicted: Photos predicted to have it.
    """

    hits: Integers
    photos: Integers
    predicted: Integers


def count_labels(matrix: Integers) -> LabelCounts:
    """Returns the counts of each label of a ``(C, C)`` confusion matrix."""
    return LabelCounts(
        hits=np.diagonal(matrix).copy(), photos=matrix.sum(axis=1), predicted=matrix.sum(axis=0)
    )


def resample_labels(matrix: Integers, *, resamples: int, rng: np.random.Generator) -> LabelCounts:
    """Returns bootstrap resamples of the counts of each label.

    Drawing photos is drawing the matrix's cells from a multinomial; only cells with photos are
    drawn, so that a resample costs at most a number a photo, however many labels there are.

    Args:
        matrix: ``(C, C)`` counts with at least one photo.
        resamples: R, how many times the photos are drawn.
        rng: Source of randomness.

    Returns:
        Counts of the shape ``(R, C)``.
    """
    truth, predicted = np.nonzero(matrix)
    shares = matrix[truth, predicted] / matrix.sum()
    drawn = rng.multinomial(int(matrix.sum()), shares, size=resamples)  # (R, cells)
    labels = np.arange(len(matrix))
    return LabelCounts(
        hits=_sum_cells(np.where(truth == predicted, drawn, 0), truth, labels),
        photos=_sum_cells(drawn, truth, labels),
        predicted=_sum_cells(drawn, predicted, labels),
    )


def _sum_cells(drawn: Integers, label_of_cell: Integers, labels: Integers) -> Integers:
    """Returns ``(R, C)`` sums of ``(R, cells)`` counts over the cells of each label."""
    order = np.argsort(label_of_cell, kind="stable")
    running = np.zeros((len(drawn), len(order) + 1), dtype=np.int64)
    np.cumsum(drawn[:, order], axis=1, out=running[:, 1:])
    ends = np.searchsorted(label_of_cell[order], labels, side="right")
    sums: Integers = np.diff(running[:, ends], axis=1, prepend=0)
    return sums


def write_confusion_csv(path: Path, matrix: Integers, labels: Sequence[str]) -> Path:
    """Writes the matrix with labels on both axes, to be opened in a spreadsheet.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """
    names = [guard(label) for label in labels]
    rows = [[name, *map(str, counts)] for name, counts in zip(names, matrix.tolist(), strict=True)]
    return write_csv(path, [[CORNER, *names], *rows])


def read_confusion_csv(path: Path) -> tuple[Integers, list[str]]:
    """Returns the ``(C, C)`` matrix and the labels of a file that `write_confusion_csv` wrote.

    Raises:
        RunError: The file is missing or has another format.
    """
    try:
        header, *rows = read_csv(path)
        labels = [unguard(cell) for cell in header[1:]]
        counts = [[int(cell) for cell in row[1:]] for row in rows]
        matrix = np.asarray(counts, dtype=np.int64).reshape(len(labels), len(labels))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is not a confusion matrix: {error}. Write it again with finetune evaluate."
        ) from error
    return matrix, labels


def worst_confusions(matrix: Integers, *, limit: int) -> list[tuple[int, int, int]]:
    """Returns the most frequent mistakes as (truth, predicted, photos), most frequent first.

    Equal counts come in the order of the labels.
    """
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    flat = wrong.ravel()
    order = np.argsort(-flat, kind="stable")[:limit]
    size = len(matrix)
    return [(int(i) // size, int(i) % size, int(flat[i])) for i in order if flat[i] > 0]


def order_by_confusion(matrix: Integers) -> list[int]:
    """Returns an order of labels that puts those confused with each other side by side.

    Each label starts as a chain of its own; chains are joined end to end at the most confused pair
    of labels that are both ends (greedy edge matching, as for the traveling salesman problem).
    Chains with the most mistakes come first, labels without mistakes last.
    """
    mutual = matrix + matrix.T
    np.fill_diagonal(mutual, 0)
    rows, columns = np.triu_indices(len(matrix), k=1)
    present = np.flatnonzero(mutual[rows, columns])
    strength = mutual[rows, columns][present]
    chains: dict[int, list[int]] = {k: [k] for k in range(len(matrix))}
    chain_of = list(range(len(matrix)))
    for place in present[np.argsort(-strength, kind="stable")]:
        a, b = int(rows[place]), int(columns[place])
        left, right = chains[chain_of[a]], chains[chain_of[b]]
        if left is right or a not in (left[0], left[-1]) or b not in (right[0], right[-1]):
            continue
        # Turn both so that a ends the left chain and b begins the right one.
        if left[-1] != a:
            left.reverse()
        if right[0] != b:
            right.reverse()
        gone = chain_of[b]
        left.extend(right)
        for label in right:
            chain_of[label] = chain_of[a]
        del chains[gone]
    mistakes = mutual.sum(axis=1)
    ordered = sorted(chains.values(), key=lambda chain: (-int(mistakes[chain].sum()), min(chain)))
    return [label for chain in ordered for label in chain]


def order_by_recall(matrix: Integers) -> list[int]:
    """Returns the labels by recall, the worst first.

    Labels without photos come last.
    """
    photos = matrix.sum(axis=1)
    recall = np.divide(np.diagonal(matrix), photos, out=np.full(len(matrix), 2.0), where=photos > 0)
    return [int(k) for k in np.argsort(recall, kind="stable")]


def most_confused(matrix: Integers, limit: int) -> list[int]:
    """Returns the at most `limit` labels with the most mistakes, in class order."""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diagonal(matrix)
    return sorted(int(k) for k in np.argsort(-wrong, kind="stable")[:limit])


MAX_NUMBERED_LABELS = 25
"""Most labels for which cells show their counts."""

MAX_NAMED_LABELS = 100
"""Most labels that are named."""

_INK, _PAPER, _SHADE = (30, 30, 30), (255, 255, 255), (8, 81, 156)
_MARGIN = 10
_NAME = 200  # widest name in pixels


def draw_confusion(matrix: Integers, labels: Sequence[str], *, title: str) -> NDArray[np.uint8]:
    """Returns an image of a confusion matrix: true labels in rows, predicted ones in columns.

    A cell is as dark as its share of its row: the diagonal shows each label's recall.

    Args:
        matrix: ``(C, C)`` counts.
        labels: C names.
        title: Above it.

    Returns:
        ``(H, W, 3) uint8``.
    """
    count = len(labels)
    side = 40 if count <= MAX_NUMBERED_LABELS else max(4, 1000 // count)
    text = min(14, max(8, side - 2))
    named = labels if count <= MAX_NAMED_LABELS else ()
    # Labels that no font can draw have the numbers of their rows.
    names = [
        fitted(label, text, _NAME) if has_glyphs(label) else str(place)
        for place, label in enumerate(named, start=1)
    ]
    room = round(max((text_width(name, text) for name in names), default=-8)) + 8
    top, left = _MARGIN + 24 + room, _MARGIN + room
    width = max(left + count * side, round(text_width(title, 15))) + _MARGIN
    page = Image.new("RGB", (width, top + count * side + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(page)
    draw_text(pen, (_MARGIN, _MARGIN - 4), title, size=15, fill=_INK)
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    page.paste(Image.fromarray(_cells(shares, side)), (left, top))
    if count <= MAX_NUMBERED_LABELS:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            ink = _PAPER if shares[row, column] > 0.5 else _INK
            middle = (left + (column + 0.5) * side, top + (row + 0.5) * side)
            draw_text(pen, middle, f"{matrix[row, column]}", size=13, fill=ink, anchor="mm")
    for place, name in enumerate(names):
        middle = (left - 6, top + (place + 0.5) * side)
        draw_text(pen, middle, name, size=text, fill=_INK, anchor="rm")
        strip = Image.new("RGB", (room, side), _PAPER)
        draw_text(ImageDraw.Draw(strip), (4, side / 2), name, size=text, fill=_INK, anchor="lm")
        page.paste(strip.rotate(90, expand=True), (left + place * side, top - room))
    return np.asarray(page)


def _cells(shares: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    paper, shade = np.array(_PAPER), np.array(_SHADE)
    colors = np.rint(paper + (shade - paper) * shares[..., None]).astype(np.uint8)
    cells: NDArray[np.uint8] = colors.repeat(side, axis=0).repeat(side, axis=1)
    if side > 8:
        for edge in (0, side - 1):
            cells[edge::side] = cells[:, edge::side] = 225
    return cells
