"""Which photos a report shows, and in which order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, islice, zip_longest

from finetune.evaluation.predictions import Prediction

LEAST_SURE = 24
"""Photos in the gallery of those it hesitated over most."""


def mistakes(predictions: Sequence[Prediction]) -> list[int]:
    """Returns the places of the wrong answers, the surest first."""
    wrong = (k for k, row in enumerate(predictions) if not row.correct)
    return sorted(wrong, key=lambda k: (-predictions[k].probability, predictions[k].path))


def surest_correct(predictions: Sequence[Prediction], labels: Sequence[str]) -> list[int]:
    """Returns the place of the surest right answer of each label that has one, in class order."""
    best: dict[str, int] = {}
    for k, row in enumerate(predictions):
        held = best.get(row.label)
        if row.correct and (held is None or row.probability > predictions[held].probability):
            best[row.label] = k
    return [best[label] for label in labels if label in best]


def least_sure(predictions: Sequence[Prediction], *, limit: int = LEAST_SURE) -> list[int]:
    """Returns the places of the answers with the least probability, the least first.

    A quarter of the photos at most, so that in a small part "least sure" still means something.
    """
    order = sorted(
        range(len(predictions)), key=lambda k: (predictions[k].probability, predictions[k].path)
    )
    return order[: min(limit, -(-len(order) // 4))]


def choose_photos(
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    *,
    limit: int,
    first: Iterable[int] = (),
) -> list[int]:
    """Returns the places of the photos worth their bytes in the page, at most `limit`.

    First what the caller names, then a quarter for the surest of each label and the least sure,
    then mistakes, the surest first, and then right answers, label by label in turn, so that the
    cells of the confusion matrix have something to open.
    """
    quarter = chain(least_sure(predictions), surest_correct(predictions, labels))
    by_label: defaultdict[str, list[int]] = defaultdict(list)
    for k in sorted(range(len(predictions)), key=lambda k: -predictions[k].probability):
        if predictions[k].correct:
            by_label[predictions[k].label].append(k)
    in_turn = (k for row in zip_longest(*by_label.values()) for k in row if k is not None)
    wanted = chain(first, islice(quarter, max(1, limit // 4)), mistakes(predictions), in_turn)
    return list(islice(dict.fromkeys(wanted), limit))
