"""Cross-fit predictions of held-out photos and of held-out labels.

A temperature and a threshold for "none of these" want to see what a new photo will look like to
the network. The validation photos show it, but they are few, and no photo among them is foreign.
With a frozen backbone a head is trained in no time, so that photos and labels can be held out in
turn (`cross_fit`); where the full network trains, all there is are the validation photos, each with
its own label struck from the answer (`masked_scores`): free, but too kind, as the features have
seen the label.
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
    familiarity,
    fit_mixture,
    log_odds,
)
from finetune.evaluation.precision_target import HeldOutScores
from finetune.evaluation.probabilities import Floats, Integers, check

FitHead = Callable[[NDArray[np.bool_], NDArray[np.bool_]], tuple[Floats, Floats]]
"""Takes indices of the training photos, ``(N,)``, and of the photos to predict; returns the
logits ``(K, C)`` of the latter, and how familiar they are by their distance, ``(K,)``."""

LABEL_FOLDS = 10
"""Most heads that are fitted without some of the labels."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Cross-fit logits of photos.

    Attributes:
        logits: ``(K, C)``; of photos of foreign labels without the columns of these.
        targets: ``(K,)``.
        distances: ``(K,)``: how familiar they are by their features.
    """

    logits: Floats
    targets: Integers
    distances: Floats


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """Cross-fit logits of held-out photos and of held-out labels.

    Attributes:
        known: Photos of labels that were learned.
        foreign: Photos of labels that were not, one group a head; empty with two labels or fewer.
    """

    known: Answered
    foreign: tuple[Answered, ...]

    def scores(self, *, temperature: float) -> tuple[HeldOutScores, Mixture]:
        """Returns the scores of log odds and distance mixed, and the mixture."""
        odds = log_odds(self.known.logits, temperature=temperature)
        mixture = fit_mixture(odds, self.known.distances)
        unknown = [
            mixture(log_odds(group.logits, temperature=temperature), group.distances)
            for group in self.foreign
        ]
        empty = np.zeros(0)
        found = HeldOutScores(
            scores=mixture(odds, self.known.distances),
            correct=self.known.logits.argmax(axis=1) == self.known.targets,
            labels=self.known.targets,
            unknown_scores=np.concatenate([empty, *unknown]),
            unknown_labels=np.concatenate(
                [empty.astype(np.int64), *(group.targets for group in self.foreign)]
            ),
        )
        return found, mixture


def cross_fit(
    targets: Integers, folds: Integers, fit: FitHead, *, rng: np.random.Generator
) -> CrossFit:
    """Returns cross-fit logits of every photo, and of every photo with its label held out.

    A head a fold learns from all photos but the fold's, and is asked about these. Then the labels
    are dealt into `LABEL_FOLDS` (a label each, where there are no more); a head for each learns
    from all photos but those of its labels, and is asked about these, which are foreign to it.
    With two labels none can be held out.

    Args:
        targets: ``(N,)`` true indices.
        folds: ``(N,)``: the fold in which a photo is held out; -1: it always trains.
        fit: Trains a head. It must look at nothing of the photos it is to be asked about: not even
            for the directions in which photos differ, in which a label never seen is not told from
            the others as well.
        rng: Deals the labels.

    Raises:
        ModelError: Some logits are not finite.
    """
    held = [_answered(targets, folds == fold, fit) for fold in np.unique(folds[folds >= 0])]
    known = Answered(
        logits=np.concatenate([group.logits for group in held]),
        targets=np.concatenate([group.targets for group in held]),
        distances=np.concatenate([group.distances for group in held]),
    )
    present = np.unique(targets)
    if len(present) < 3:
        return CrossFit(known=known, foreign=())
    count = min(LABEL_FOLDS, len(present))
    fold_of = np.full(known.logits.shape[1], -1)
    fold_of[present] = rng.permutation(np.arange(len(present)) % count)
    foreign = []
    for fold in range(count):
        group = _answered(targets, fold_of[targets] == fold, fit)
        learned = (fold_of != fold) & (fold_of >= 0)
        foreign.append(dataclasses.replace(group, logits=group.logits[:, learned]))
    return CrossFit(known=known, foreign=tuple(foreign))


def _answered(targets: Integers, asked: NDArray[np.bool_], fit: FitHead) -> Answered:
    said, distances = fit(~asked, asked)
    logits, truth = check(said, targets[asked])
    return Answered(logits=logits, targets=truth, distances=np.asarray(distances, np.float64))


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
    if values.shape[1] < 3:
        raise ConfigError(
            f'Saying "none of these" is learned by holding labels out, which needs 3 labels; '
            f"there are {values.shape[1]}."
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

    With fewer than three labels there are no foreign ones.

    Raises:
        ModelError: Some logits are not finite.
    """
    values, indices = check(logits, targets)
    few = values.shape[1] < 3
    asked = values[:0] if few else drop_own_label(values, indices)
    return HeldOutScores(
        scores=familiarity(values, score=score, temperature=temperature),
        correct=values.argmax(axis=1) == indices,
        labels=indices,
        unknown_scores=familiarity(asked, score=score, temperature=temperature),
        unknown_labels=indices[: len(asked)],
    )
