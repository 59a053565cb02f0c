"""Label errors: labels confidently contradicted by a model that never saw the photo.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty
in Dataset Labels", JAIR 70, arXiv:1911.00068): a photo counts as showing a label when that label is
at least as probable as it is, on average, in the photos that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.curation.logistic_regression import (
    DEFAULT_L2,
    fit_classifier,
    fit_multi_label_classifier,
)
from finetune.photos.split.split import fold_groups

FOLDS = 5

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class LabelError:
    """Photo whose label is probably wrong.

    Attributes:
        position: Index of the photo.
        label: Its label that is probably wrong; None: a label is missing.
        suggested: The label that it probably should have; None: one label too many.
        probability: That the photo shows `suggested` or does not show `label`, by models that were
            not trained on it.
        strength: Difference in probability to the present label, in (0, 1].
    """

    position: int
    label: str | None
    suggested: str | None
    probability: float
    strength: float


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """Label errors found by cross-validation.

    Attributes:
        errors: The strongest first.
        labels: In the order of the columns of `probabilities`.
        probabilities: ``(N, C)`` by models that were not trained on the photo; NaN where a label
            has no photos in another group to learn it from.
    """

    errors: tuple[LabelError, ...]
    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]

    @property
    def unchecked(self) -> tuple[int, ...]:
        """Positions of photos without a probability for each label."""
        return tuple(np.flatnonzero(np.isnan(self.probabilities).any(axis=1)).tolist())


def find_label_errors(
    features: NDArray[np.float32],
    labels: Sequence[str],
    groups: Sequence[Hashable],
    *,
    folds: int = FOLDS,
    seed: int = 0,
    l2: float = DEFAULT_L2,
    progress: Progress | None = None,
) -> LabelErrors:
    """Returns the photos whose label is contradicted by models that were not trained on them.

    Args:
        features: ``(N, F)``.
        labels: The label of each photo.
        groups: The group of each photo; near-duplicates must share one, or a wrongly labeled
            burst confirms itself.
        folds: Number of folds.
        seed: Seed of the folds.
        l2: See `finetune.curation.logistic_regression.fit_classifier`.
        progress: Called as ``progress(done, total)`` after each fold.

    Raises:
        ConfigError: No label has two groups of photos, or `folds` is below 2.
    """
    names = tuple(sorted(set(labels)))
    given = np.array(labels)
    targets = np.array([names.index(label) for label in labels])
    fold_of = np.array(fold_groups([(label,) for label in labels], groups, folds=folds, seed=seed))
    probabilities = np.full((len(labels), len(names)), np.nan)
    for fold in range(folds):
        held = fold_of == fold
        if held.any() and len(set(given[~held])) > 1:
            head = fit_classifier(features[~held], list(given[~held]), l2=l2)
            found = np.zeros((int(held.sum()), len(names)))
            found[:, [names.index(label) for label in head.labels]] = head.probabilities(
                features[held]
            )
            probabilities[held] = found
        if progress is not None:
            progress(fold + 1, folds)
    errors = tuple(
        LabelError(
            position=i,
            label=labels[i],
            suggested=names[j],
            probability=float(probabilities[i, j]),
            strength=float(probabilities[i, j] - probabilities[i, targets[i]]),
        )
        for i, j in confident_disagreements(probabilities, targets)
    )
    return LabelErrors(errors=errors, labels=names, probabilities=probabilities)


def find_multi_label_errors(
    features: NDArray[np.float32],
    labels: Sequence[Collection[str]],
    groups: Sequence[Hashable],
    *,
    folds: int = FOLDS,
    seed: int = 0,
    l2: float = DEFAULT_L2,
    progress: Progress | None = None,
) -> LabelErrors:
    """Returns labels that are missing or too many, by models that were not trained on the photos.

    Each label is a binary classification of its own: `confident_disagreements` between present and
    absent. A photo may have several errors. Arguments and errors are as for `find_label_errors`,
    with the labels of each photo, which may be none.
    """
    names = tuple(sorted({name for own in labels for name in own}))
    present = np.array([[name in own for name in names] for own in labels], dtype=bool)
    fold_of = np.array(
        fold_groups([tuple(sorted(own)) for own in labels], groups, folds=folds, seed=seed)
    )
    probabilities = np.full((len(labels), len(names)), np.nan)
    for fold in range(folds):
        held = fold_of == fold
        shares = present[~held].mean(axis=0)
        columns = np.flatnonzero((shares > 0) & (shares < 1))
        if held.any() and len(columns):
            head = fit_multi_label_classifier(
                features[~held], [names[k] for k in columns], present[~held][:, columns], l2=l2
            )
            probabilities[np.ix_(held, columns)] = head.probabilities(features[held])
        if progress is not None:
            progress(fold + 1, folds)
    errors = []
    for k, name in enumerate(names):
        pair = np.stack([1 - probabilities[:, k], probabilities[:, k]], axis=1)
        for i, other in confident_disagreements(pair, present[:, k].astype(np.int64)):
            probability = float(pair[i, other])
            errors.append(
                LabelError(
                    position=i,
                    label=None if other else name,
                    suggested=name if other else None,
                    probability=probability,
                    strength=2 * probability - 1,
                )
            )
    errors.sort(key=lambda error: -error.strength)
    return LabelErrors(errors=tuple(errors), labels=names, probabilities=probabilities)


def confident_disagreements(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Returns (photo, other label) where another label is confident, the strongest first.

    The threshold of label j is the mean of ``p[i, j]`` over the photos i that have it. A photo
    counts as the most probable of the labels that reach their thresholds (equation 1 of the paper),
    and disagrees when that is another label than its own, and more probable.

    Args:
        probabilities: ``(N, C)`` out of sample; rows with NaN are left out.
        targets: ``(N,)``, indices of the given labels.
    """
    checked = np.isfinite(probabilities.sum(axis=1))
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in range(probabilities.shape[1]):
        with_label = np.logical_and(checked, targets == label)
        if with_label.any():
            thresholds[label] = probabilities[with_label, label].mean()
    confident = np.where(checked[:, None] & (probabilities >= thresholds), probabilities, -np.inf)
    counted_as = confident.argmax(axis=1)
    rows = np.arange(len(targets))
    own = probabilities[rows, targets]
    other = confident[rows, counted_as]
    chosen = np.flatnonzero(np.isfinite(other) & (counted_as != targets) & (other > own))
    order = np.argsort(-(other[chosen] - own[chosen]), kind="stable")
    return [(int(i), int(counted_as[i])) for i in chosen[order]]
