"""Cross-fit predictions of held-out photos and of held-out labels.

The temperature and the unknown threshold are fitted on predictions for new photos. Validation
photos are few, and all of known labels. On cached features a head is fitted quickly, so that photos
and labels can be held out in turn (`cross_fit`). For a full network, `masked_scores` removes each
validation photo's own label from its logits: free but optimistic, as the features were trained on
the label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.errors import ConfigError
from finetune.evaluation.out_of_distribution import (
    Mixture,
    Score,
    fit_mixture,
    log_odds,
    ood_score,
)
from finetune.evaluation.precision_target import HeldOutScores
from finetune.evaluation.probabilities import Floats, Integers, check

FitHead = Callable[[NDArray[np.bool_], NDArray[np.bool_]], tuple[Floats, Floats]]
"""Takes masks ``(N,)`` of the photos to train on and of those to predict; returns the logits
``(K, C)`` of the latter and minus their distances, ``(K,)``."""

LABEL_FOLDS = 10
"""Maximum number of heads fitted without some of the labels."""


@dataclass(frozen=True, kw_only=True)
class HeldOutLogits:
    """Cross-fit logits of photos.

    Attributes:
        logits: ``(K, C)``, without the columns of held-out labels.
        targets: ``(K,)``.
        distances: ``(K,)``, minus the distances of their features; higher is more in-distribution.
    """

    logits: Floats
    targets: Integers
    distances: Floats


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """Cross-fit logits of held-out photos and of held-out labels.

    Attributes:
        known: Photos of known labels.
        unknown: Photos of held-out labels, one group per head; empty for fewer than three labels.
    """

    known: HeldOutLogits
    unknown: tuple[HeldOutLogits, ...]

    def scores(self, *, temperature: float) -> tuple[HeldOutScores, Mixture]:
        """Returns the scores of log odds and distance mixed, and the mixture."""
        odds = log_odds(self.known.logits, temperature=temperature)
        mixture = fit_mixture(odds, self.known.distances)
        unknown_scores = [
            mixture(log_odds(group.logits, temperature=temperature), group.distances)
            for group in self.unknown
        ]
        empty = np.zeros(0)
        found = HeldOutScores(
            scores=mixture(odds, self.known.distances),
            correct=self.known.logits.argmax(axis=1) == self.known.targets,
            labels=self.known.targets,
            unknown_scores=np.concatenate([empty, *unknown_scores]),
            unknown_labels=np.concatenate(
                [empty.astype(np.int64), *(group.targets for group in self.unknown)]
            ),
        )
        return found, mixture


def cross_fit(
    targets: Integers, folds: Integers, fit: FitHead, *, rng: np.random.Generator
) -> CrossFit:
    """Returns cross-fit logits of every photo, and of every photo with its label held out.

    A head per fold is trained on the other folds and predicts the fold. Then the labels are split
    into at most `LABEL_FOLDS` folds, and a head per fold is trained without these labels and
    predicts their photos. With two labels none can be held out.

    Args:
        targets: ``(N,)`` true indices.
        folds: ``(N,)``, the fold in which a photo is held out; -1: always in training.
        fit: Trains a head. It must not use the photos to predict in any way, not even for a
            principal component analysis.
        rng: Assigns labels to folds.

    Raises:
        ModelError: Some logits are not finite.
    """
    held = [_predict(targets, folds == fold, fit) for fold in np.unique(folds[folds >= 0])]
    known = HeldOutLogits(
        logits=np.concatenate([group.logits for group in held]),
        targets=np.concatenate([group.targets for group in held]),
        distances=np.concatenate([group.distances for group in held]),
    )
    present = np.unique(targets)
    if len(present) < 3:
        return CrossFit(known=known, unknown=())
    count = min(LABEL_FOLDS, len(present))
    fold_of = np.full(known.logits.shape[1], -1)
    fold_of[present] = rng.permutation(np.arange(len(present)) % count)
    unknown = []
    for fold in range(count):
        group = _predict(targets, fold_of[targets] == fold, fit)
        learned = (fold_of != fold) & (fold_of >= 0)
        unknown.append(dataclasses.replace(group, logits=group.logits[:, learned]))
    return CrossFit(known=known, unknown=tuple(unknown))


def _predict(targets: Integers, held_out: NDArray[np.bool_], fit: FitHead) -> HeldOutLogits:
    predicted, distances = fit(~held_out, held_out)
    logits, truth = check(predicted, targets[held_out])
    return HeldOutLogits(logits=logits, targets=truth, distances=np.asarray(distances, np.float64))


def drop_own_label(logits: ArrayLike, targets: ArrayLike) -> Floats:
    """Returns each photo's logits without that of its own label, ``(N, C - 1) float64``.

    Raises:
        ConfigError: Fewer than three labels.

    Example:
        >>> drop_own_label([[3.0, 1.0, 2.0]], [0]).tolist()
        [[1.0, 2.0]]
    """
    values, indices = check(logits, targets)
    if values.shape[1] < 3:
        raise ConfigError(
            f"Holding labels out needs at least 3 labels; there are {values.shape[1]}."
        )
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
    """Returns scores of validation photos, and out-of-distribution scores without their label.

    With fewer than three labels there are no out-of-distribution scores.

    Raises:
        ModelError: Some logits are not finite.
    """
    values, indices = check(logits, targets)
    few = values.shape[1] < 3
    masked = values[:0] if few else drop_own_label(values, indices)
    return HeldOutScores(
        scores=ood_score(values, score=score, temperature=temperature),
        correct=values.argmax(axis=1) == indices,
        labels=indices,
        unknown_scores=ood_score(masked, score=score, temperature=temperature),
        unknown_labels=indices[: len(masked)],
    )
