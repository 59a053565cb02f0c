"""Label errors: labels confidently contradicted by a model that never saw the photo.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty
in Dataset Labels", JAIR 70, arXiv:1911.00068): a photo counts as showing a label when that label is
at least as probable as it is, on average, in the photos that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from finetune.curation.logistic_regression import (
    DEFAULT_L2,
    LinearClassifier,
    fit_classifier,
    fit_multi_label_classifier,
)
from finetune.photos.split.split import fold_groups

FOLDS = 5

MOST_LEARNED = 20_000
"""Largest number of photos that a head learns; of more, some are drawn, so that memory stays within
bounds."""

LEAST_OF_LABEL = 50
"""Photos of each label that are drawn at least, where it has as many."""

CHUNK = 8192
"""Photos that are predicted at a time."""

Progress = Callable[[int, int], None]


class FeatureRows(Protocol):
    """Features ``(N, F)``, in an array or read from a file."""

    def __getitem__(self, rows: NDArray[np.intp], /) -> NDArray[np.float32]:
        """Returns the features of some photos, ``(len(rows), F) float32``."""
        ...


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
        probabilities: ``(N, C) float32`` by models that were not trained on the photo; NaN where a
            label has no photos in another group to learn it from.
    """

    errors: tuple[LabelError, ...]
    labels: tuple[str, ...]
    probabilities: NDArray[np.float32]

    @property
    def unchecked(self) -> tuple[int, ...]:
        """Positions of photos without a probability for each label."""
        return tuple(np.flatnonzero(np.isnan(self.probabilities).any(axis=1)).tolist())


def find_label_errors(
    features: FeatureRows,
    labels: Sequence[str],
    groups: Sequence[Hashable],
    *,
    folds: int = FOLDS,
    seed: int = 0,
    l2: float = DEFAULT_L2,
    progress: Progress | None = None,
) -> LabelErrors:
    """Returns the photos whose label is contradicted by models that were not trained on them.

    A model learns at most `MOST_LEARNED` of the other photos.

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
    column = {name: number for number, name in enumerate(names)}
    targets = np.array([column[label] for label in labels])
    fold_of = np.array(fold_groups([(label,) for label in labels], groups, folds=folds, seed=seed))
    probabilities = np.full((len(labels), len(names)), np.nan, np.float32)
    rng = np.random.default_rng(seed)
    for fold in range(folds):
        held, others = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        if len(held) and len(np.unique(targets[others])) > 1:
            learned = _drawn(others, targets, rng)
            head = fit_classifier(features[learned], [labels[i] for i in learned.tolist()], l2=l2)
            probabilities[held] = 0
            _predict(head, features, held, [column[label] for label in head.labels], probabilities)
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
    features: FeatureRows,
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
    probabilities = np.full((len(labels), len(names)), np.nan, np.float32)
    rng = np.random.default_rng(seed)
    # The rarest label of a photo decides how it is drawn.
    counts = np.where(present, present.sum(axis=0), np.iinfo(np.int64).max)
    rarest = counts.argmin(axis=1) if len(names) else np.zeros(len(labels), np.int64)
    for fold in range(folds):
        held, others = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        learned = _drawn(others, rarest, rng)
        shares = present[learned].mean(axis=0)
        columns = np.flatnonzero((shares > 0) & (shares < 1))
        if len(held) and len(columns):
            head = fit_multi_label_classifier(
                features[learned], [names[k] for k in columns], present[learned][:, columns], l2=l2
            )
            _predict(head, features, held, columns.tolist(), probabilities)
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


def _drawn(
    photos: NDArray[np.intp], targets: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Returns at most about `MOST_LEARNED` of the photos, of each label the same share."""
    if len(photos) <= MOST_LEARNED:
        return photos
    share = MOST_LEARNED / len(photos)
    order = rng.permutation(photos)
    order = order[np.argsort(targets[order], kind="stable")]
    _, start, counts = np.unique(targets[order], return_index=True, return_counts=True)
    wanted = np.maximum(np.ceil(share * counts), LEAST_OF_LABEL)
    place_in_label = np.arange(len(order)) - np.repeat(start, counts)
    return np.sort(order[place_in_label < np.repeat(wanted, counts)])


def _predict(
    head: LinearClassifier,
    features: FeatureRows,
    photos: NDArray[np.intp],
    columns: Sequence[int],
    into: NDArray[np.float32],
) -> None:
    """Writes the probabilities of some photos into their rows."""
    for start in range(0, len(photos), CHUNK):
        some = photos[start : start + CHUNK]
        into[some[:, None], columns] = head.probabilities(features[some])


def confident_disagreements(
    probabilities: NDArray[np.floating[Any]], targets: NDArray[np.int64]
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
    own = probabilities[np.arange(len(targets)), targets]
    counted_as, other = np.zeros(len(targets), np.int64), np.full(len(targets), -np.inf)
    for start in range(0, len(targets), CHUNK):
        part = slice(start, start + CHUNK)
        some = probabilities[part]
        confident = np.where(checked[part, None] & (some >= thresholds), some, -np.inf)
        counted_as[part], other[part] = confident.argmax(axis=1), confident.max(axis=1)
    chosen = np.flatnonzero(np.isfinite(other) & (counted_as != targets) & (other > own))
    order = np.argsort(-(other[chosen] - own[chosen]), kind="stable")
    return [(int(i), int(counted_as[i])) for i in chosen[order]]
