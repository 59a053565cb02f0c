"""Photos of labels never learnt, made of those one has: what a threshold for "none of these" needs.

Among photos of known labels a threshold looks better than it is, since no foreign photo is there to
be taken for a known one. Labels are therefore held out: either the head is fitted again without
some of them (`cross_fit`, exact, seconds on features), or a photo's own label is struck from its
answer (`drop_own_label`, free, a little too kind, as the features have seen the label).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from finetune.errors import ConfigError
from finetune.evaluation.probabilities import Floats, Integers, check
from finetune.evaluation.unknown import Score, familiarity

FitHead = Callable[[Floats, Integers], Callable[[Floats], Floats]]
"""Takes training features ``(N, D)`` and targets 0..C-1; returns features -> logits ``(M, C)``."""


@dataclass(frozen=True, kw_only=True)
class HeldOutScores:
    """What `finetune.evaluation.unknown.fit_threshold` takes.

    Attributes:
        scores: Of photos of known labels.
        correct: Whether the label said of these is right.
        unknown_scores: Of photos whose label was held out.
    """

    scores: Floats
    correct: np.ndarray
    unknown_scores: Floats


def drop_own_label(logits: ArrayLike, targets: ArrayLike) -> Floats:
    """Returns each photo's logits without that of its own label, ``(N, C - 1) float64``.

    As if the network had a head for all labels but that one.

    Raises:
        ConfigError: Fewer than three labels: with one left there is nothing to choose from.

    Example:
        >>> drop_own_label([[3.0, 1.0, 2.0]], [0]).tolist()
        [[1.0, 2.0]]
    """
    values, indices = check(logits, targets)
    _check_labels(values.shape[1])
    kept = np.arange(values.shape[1]) != indices[:, None]
    rest: Floats = values[kept].reshape(len(values), -1)
    return rest


def masked_scores(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    score: Score = "max_probability",
    temperature: float = 1.0,
) -> HeldOutScores:
    """Returns scores of validation photos as they are and, as foreign ones, without their label.

    Raises:
        ConfigError: Fewer than three labels.
        ModelError: Some logits are not finite.
    """
    values, indices = check(logits, targets)
    foreign = drop_own_label(values, indices)
    return HeldOutScores(
        scores=familiarity(values, score=score, temperature=temperature),
        correct=values.argmax(axis=1) == indices,
        unknown_scores=familiarity(foreign, score=score, temperature=temperature),
    )


def cross_fit(
    train: tuple[Floats, Integers],
    validation: tuple[Floats, Integers],
    fit: FitHead,
    *,
    folds: int = 5,
    score: Score = "max_probability",
    temperature: float = 1.0,
    rng: np.random.Generator,
) -> HeldOutScores:
    """Returns scores by heads that each were fitted without some of the labels.

    The labels are dealt into folds. For each, a head is fitted on the training photos of the other
    labels and asked about all validation photos: those of the fold's labels are foreign to it.

    Args:
        train: Features ``(N, D)`` and targets ``(N,)``.
        validation: The same of the validation photos, which no head is fitted on.
        fit: Fits a head.
        folds: How many heads; at most one a label.
        score: As in `familiarity`.
        temperature: Divides the logits.
        rng: Deals the labels.

    Raises:
        ConfigError: Fewer than three labels.
    """
    features, targets = train
    asked, truth = validation
    labels = int(max(targets.max(), truth.max())) + 1
    _check_labels(labels)
    # Two labels at least stay known to each head.
    folds = max(2, min(folds, labels)) if labels > 3 else labels
    fold_of = rng.permutation(np.arange(labels) % folds)
    known_scores, correct, unknown_scores = [], [], []
    for fold in range(folds):
        kept = np.flatnonzero(fold_of != fold)
        new_index = np.full(labels, -1)
        new_index[kept] = np.arange(len(kept))
        chosen = fold_of[targets] != fold
        logits = fit(features[chosen], new_index[targets[chosen]])(asked)
        scores = familiarity(logits, score=score, temperature=temperature)
        known = fold_of[truth] != fold
        known_scores.append(scores[known])
        correct.append(logits[known].argmax(axis=1) == new_index[truth[known]])
        unknown_scores.append(scores[~known])
    return HeldOutScores(
        scores=np.concatenate(known_scores),
        correct=np.concatenate(correct),
        unknown_scores=np.concatenate(unknown_scores),
    )


def _check_labels(labels: int) -> None:
    if labels < 3:
        raise ConfigError(
            f'Saying "none of these" is learnt by holding labels out, which needs 3 labels; '
            f"there are {labels}."
        )
