"""Likely missing and likely wrong labels of photos that may have several, or none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.curation.label_errors import FOLDS, confident_disagreements
from finetune.curation.quick_head import DEFAULT_L2, fit_quick_tags
from finetune.photos.folds import fold_groups


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
        """How much likelier the contrary is: the difference, above 0 and at most 1."""
        return abs(2 * self.probability - 1)


@dataclass(frozen=True, kw_only=True)
class TagCheck:
    """What a check of labels found.

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
        l2: Of the classifiers, see `finetune.curation.quick_head.fit_quick_tags`.
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
