"""Label errors: labels confidently contradicted by a model that never saw the photo.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty
in Dataset Labels", JAIR 70, arXiv:1911.00068): a label counts as confidently seen in a photo when
it is at least as probable as it is, on average, in the photos that bear it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.curation.logistic_regression import DEFAULT_L2, fit_quick_head, fit_quick_tags
from finetune.photos.split.folds import fold_groups

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Photo whose label is probably wrong.

    Attributes:
        position: Which photo.
        given: Its label.
        likely: What it probably shows instead.
        given_probability: Of `given`, by models that were not trained on the photo.
        likely_probability: Of `likely`, by the same.
    """

    position: int
    given: str
    likely: str
    given_probability: float
    likely_probability: float

    @property
    def strength(self) -> float:
        """Difference in probability to the other label, in (0, 1]."""
        return self.likely_probability - self.given_probability


@dataclass(frozen=True, kw_only=True)
class LabelCheck:
    """Label errors found.

    Attributes:
        doubts: The strongest first.
        unchecked: Positions of photos that could not be held out, since their label has no other
            group of photos to learn it from.
        labels: In the order of the columns of `probabilities`.
        probabilities: ``(N, C)`` by models that were not trained on the photo; NaN where unchecked.
    """

    doubts: tuple[Doubt, ...]
    unchecked: tuple[int, ...]
    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]


def find_label_errors(
    features: NDArray[np.float32],
    labels: Sequence[str],
    groups: Sequence[Hashable],
    *,
    folds: int = FOLDS,
    seed: int = 0,
    l2: float = DEFAULT_L2,
    progress: Callable[[int, int], None] | None = None,
) -> LabelCheck:
    """Returns the photos whose label is contradicted by models that did not see them.

    Args:
        features: ``(N, F)``.
        labels: The label of each photo.
        groups: The group of each photo; near-duplicates must share one, or a wrongly labeled
            burst confirms itself.
        folds: In how many parts photos are held out in turn.
        seed: Decides the parts.
        l2: Of the heads, see `finetune.curation.logistic_regression.fit_quick_head`.
        progress: Called as ``progress(done, total)`` after each fold.

    Raises:
        ConfigError: No label has two groups of photos, or `folds` is below 2.
    """
    names = tuple(sorted(set(labels)))
    fold_of = np.array(fold_groups([(label,) for label in labels], groups, folds=folds, seed=seed))
    given = np.array(labels)
    probabilities = np.full((len(labels), len(names)), np.nan)
    for fold in range(folds):
        held = fold_of == fold
        if held.any() and len(set(given[~held])) > 1:
            head = fit_quick_head(features[~held], list(given[~held]), l2=l2)
            columns = [names.index(label) for label in head.labels]
            found = np.zeros((int(held.sum()), len(names)))
            found[:, columns] = head.probabilities(features[held])
            probabilities[held] = found
        if progress is not None:
            progress(fold + 1, folds)
    targets = np.array([names.index(label) for label in labels])
    unchecked = np.flatnonzero(np.isnan(probabilities).any(axis=1))
    return LabelCheck(
        doubts=tuple(
            Doubt(
                position=int(i),
                given=names[targets[i]],
                likely=names[j],
                given_probability=float(probabilities[i, targets[i]]),
                likely_probability=float(probabilities[i, j]),
            )
            for i, j in confident_disagreements(probabilities, targets)
        ),
        unchecked=tuple(int(i) for i in unchecked),
        labels=names,
        probabilities=probabilities,
    )


def confident_disagreements(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Returns (photo, other label) where another label is confidently seen, the strongest first.

    The threshold of label j is the mean of ``p[i, j]`` over photos i that bear it. Of the labels
    that reach theirs in a photo, the most probable is what it is counted as (equation 1 of the
    paper); a photo is doubted when that is not its own label, and is likelier than that.

    Args:
        probabilities: ``(N, C)`` out of sample; rows with NaN are passed over.
        targets: ``(N,)``, the given labels.
    """
    checked = np.isfinite(probabilities.sum(axis=1))
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in range(probabilities.shape[1]):
        bearing = np.logical_and(checked, targets == label)
        if bearing.any():
            thresholds[label] = probabilities[bearing, label].mean()
    confident = np.where(checked[:, None] & (probabilities >= thresholds), probabilities, -np.inf)
    counted_as = confident.argmax(axis=1)
    rows = np.arange(len(targets))
    own = probabilities[rows, targets]
    seen = confident[rows, counted_as]
    doubted = np.flatnonzero(np.isfinite(seen) & (counted_as != targets) & (seen > own))
    order = np.argsort(-(seen[doubted] - own[doubted]), kind="stable")
    return [(int(i), int(counted_as[i])) for i in doubted[order]]


@dataclass(frozen=True, kw_only=True)
class TagDoubt:
    """A photo that probably lacks a label that it has, or has one that it lacks.

    Attributes:
        position: Which photo.
        label: Which label.
        borne: Whether the photo has it, as it is.
        probability: That the photo should have it, by models that were not trained on the photo.
    """

    position: int
    label: str
    borne: bool
    probability: float

    @property
    def strength(self) -> float:
        """Difference in probability to the contrary, in (0, 1]."""
        return abs(2 * self.probability - 1)


@dataclass(frozen=True, kw_only=True)
class TagCheck:
    """Label errors found.

    Attributes:
        doubts: The strongest first; a photo comes as often as it has doubtful labels.
        labels: In the order of the columns of `probabilities`.
        probabilities: ``(N, C)`` by models that were not trained on the photo; NaN where unchecked:
            photos that could not be held out, and labels that no other group of photos has.
    """

    doubts: tuple[TagDoubt, ...]
    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]


def find_tag_errors(
    features: NDArray[np.float32],
    labels: Sequence[Collection[str]],
    groups: Sequence[Hashable],
    *,
    folds: int = FOLDS,
    seed: int = 0,
    l2: float = DEFAULT_L2,
    progress: Callable[[int, int], None] | None = None,
) -> TagCheck:
    """Returns the (photo, label) pairs that are contradicted by models that did not see the photo.

    Each label is a question of its own, with the answers "has it" and "has it not"; which of the
    two is confidently seen is judged as between two labels of `find_label_errors`.

    Args:
        features: ``(N, F)``.
        labels: The labels of each photo; a photo may have none.
        groups: The group of each photo; near-duplicates must share one.
        folds: In how many parts photos are held out in turn.
        seed: Decides the parts.
        l2: Of the classifiers, see `finetune.curation.logistic_regression.fit_quick_tags`.
        progress: Called as ``progress(done, total)`` after each fold.

    Raises:
        ConfigError: No label has two groups of photos, or `folds` is below 2.
    """
    names = tuple(sorted({name for own in labels for name in own}))
    borne = np.array([[name in own for name in names] for own in labels], dtype=bool)
    fold_of = np.array(
        fold_groups([tuple(sorted(own)) for own in labels], groups, folds=folds, seed=seed)
    )
    probabilities = np.full((len(labels), len(names)), np.nan)
    for fold in range(folds):
        held = fold_of == fold
        shares = borne[~held].mean(axis=0)
        asked = np.flatnonzero((shares > 0) & (shares < 1))
        if held.any() and len(asked):
            tags = fit_quick_tags(
                features[~held], [names[k] for k in asked], borne[~held][:, asked], l2=l2
            )
            probabilities[np.ix_(held, asked)] = tags.probabilities(features[held])
        if progress is not None:
            progress(fold + 1, folds)
    found = [
        TagDoubt(
            position=i,
            label=name,
            borne=bool(borne[i, k]),
            probability=float(probabilities[i, k]),
        )
        for k, name in enumerate(names)
        for i, _ in confident_disagreements(
            np.stack([1 - probabilities[:, k], probabilities[:, k]], axis=1),
            borne[:, k].astype(np.int64),
        )
    ]
    doubts = tuple(sorted(found, key=lambda doubt: -doubt.strength))
    return TagCheck(doubts=doubts, labels=names, probabilities=probabilities)
