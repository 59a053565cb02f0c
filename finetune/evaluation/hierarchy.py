"""Roll-up: where a label is not sure enough, the deepest ancestor that is.

A label's probability is often split between look-alikes of one genus, and then the genus is sure
although no label is (Deng et al. 2012, "Hedging Your Bets"; Goren et al. 2024, "Hierarchical
Selective Classification", arXiv 2405.11533). Thresholds are chosen on cross-fit predictions, level
by level from the deepest: of the photos without an answer so far, the likeliest node of a level is
the answer from the lowest probability on at which

- the answers given at this level are right as often as is claimed, and
- the lower bound for all answers so far, each at its own level, reaches the claim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finetune.config import PRECISION
from finetune.evaluation.precision_curve import (
    PrecisionCurve,
    is_claimable,
    precision_curve,
    share_places,
)
from finetune.evaluation.probabilities import Floats, Integers
from finetune.photos.taxonomy import Taxonomy

TARGETS = (50, 60, 70, 75, *range(80, 100))
"""Precisions in percent for which thresholds are saved; others take those of the next higher."""


@dataclass(frozen=True, kw_only=True)
class LevelAnswers:
    """Answers at one level above the labels, for one precision.

    Attributes:
        threshold: Probability of a node from which it is the answer; None: it never is.
        photos: Held-out photos with this answer.
        right: How many of these are right.
    """

    threshold: float | None
    photos: int = 0
    right: int = 0


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """Node above a photo's label, as its answer.

    Attributes:
        level: Name of the node's level.
        label: The node.
        probability: Sum over its labels.
    """

    level: str
    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {"level": self.level, "label": self.label, "probability": self.probability}


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """Taxonomy of a run's labels with the precision of each level above them.

    Attributes:
        curves: Precision of the likeliest node of each such level, from the top, over all photos.
        answers: By precision in percent: answers of each such level, from the top.
    """

    taxonomy: Taxonomy
    curves: tuple[PrecisionCurve, ...]
    answers: Mapping[int, tuple[LevelAnswers, ...]] = field(default_factory=dict)

    def answers_at(self, precision: float) -> tuple[LevelAnswers, ...]:
        """Returns the answers of each level for a precision; none above the highest saved."""
        for target in sorted(self.answers):
            if target >= 100 * precision - 1e-9:
                return self.answers[target]
        return tuple(LevelAnswers(threshold=None) for _ in self.curves)

    def roll_up(
        self,
        probabilities: Floats,
        sure: NDArray[np.bool_],
        precision: float,
        *,
        threshold: float | None = None,
    ) -> list[Ancestor | None]:
        """Returns the answer above the labels of each photo; None where there is none.

        Args:
            probabilities: Of the labels, ``(N, C)``.
            sure: ``(N,)``, photos whose label is sure, or that are unknown: they need no ancestor.
            precision: Claimed precision.
            threshold: Probability from which a node is the answer, at any level; None: by the
                precision.
        """
        found: list[Ancestor | None] = [None] * len(probabilities)
        levels = self.answers_at(precision)
        for level in reversed(range(len(levels))):
            limit = levels[level].threshold if threshold is None else threshold
            if limit is None:
                continue
            shares = self.taxonomy.at(level, probabilities)
            best = shares.argmax(axis=1)
            for row in np.flatnonzero((shares.max(axis=1) >= limit) & ~sure):
                if found[row] is None:
                    found[row] = Ancestor(
                        level=self.taxonomy.levels[level],
                        label=self.taxonomy.nodes[level][best[row]],
                        probability=float(shares[row, best[row]]),
                    )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; `from_dict` is the inverse."""
        return {
            **self.taxonomy.to_dict(),
            "curves": [curve.to_dict() for curve in self.curves],
            "answers": {
                str(target): [vars(level) for level in levels]
                for target, levels in self.answers.items()
            },
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], labels: Sequence[str]) -> Hierarchy:
        """Inverse of `to_dict`; raises KeyError, TypeError or ValueError.

        Args:
            content: JSON values.
            labels: Of the run, in class order.
        """
        taxonomy = Taxonomy.from_dict(content)
        if taxonomy.labels != tuple(labels):
            raise ValueError("the taxonomy has other labels than the run")
        curves = tuple(PrecisionCurve.from_dict(curve) for curve in content["curves"])
        answers = {
            int(target): tuple(
                LevelAnswers(threshold=one["threshold"], photos=one["photos"], right=one["right"])
                for one in levels
            )
            for target, levels in content["answers"].items()
        }
        above = len(taxonomy.levels) - 1
        if len(curves) != above or any(len(levels) != above for levels in answers.values()):
            raise ValueError("the taxonomy has not one precision curve for each level")
        return cls(taxonomy=taxonomy, curves=curves, answers=answers)


def fit_hierarchy(
    taxonomy: Taxonomy,
    probabilities: ArrayLike,
    targets: Integers,
    groups: NDArray[Any],
    *,
    labels: PrecisionCurve,
    unknown: ArrayLike | None = None,
) -> Hierarchy:
    """Returns the hierarchy with the thresholds of held-out photos.

    Args:
        taxonomy: Of the labels.
        probabilities: Calibrated, by networks that were not trained on the photo, ``(N, C)``.
        targets: True labels, ``(N,)``.
        groups: Near-duplicate group of each photo, ``(N,)``.
        labels: Precision curve of the labels on the same photos.
        unknown: ``(N,)``, photos that are unknown, and therefore have no answer; None: none is.
    """
    shares = np.asarray(probabilities, np.float64)
    odd = np.zeros(len(shares), bool) if unknown is None else np.asarray(unknown, bool)
    levels = []
    for level in range(len(taxonomy.levels)):
        found = taxonomy.at(level, shares)
        right = found.argmax(axis=1) == taxonomy.ancestors[level][targets]
        levels.append((found.max(axis=1), right))
    curves = tuple(precision_curve(*level, groups, unknown=odd) for level in levels[:-1])
    levels = [(confidence[~odd], right[~odd]) for confidence, right in levels]
    answers = {}
    for target in TARGETS:
        claim = labels.claim(target / 100)
        sure_from = claim.threshold if claim and claim.is_met else None
        answers[target] = _answers(levels, groups[~odd], target / 100, sure_from)
    return Hierarchy(taxonomy=taxonomy, curves=curves, answers=answers)


def _answers(
    levels: Sequence[tuple[Floats, NDArray[np.bool_]]],
    groups: NDArray[Any],
    precision: float,
    sure_from: float | None,
) -> tuple[LevelAnswers, ...]:
    """Returns the answers of each level above the labels, from the top.

    Args:
        levels: Probability ``(N,)`` of the likeliest node of each level, and whether it is right.
        groups: ``(N,)``.
        precision: To claim.
        sure_from: Probability from which a label is sure; None: none is.
    """
    confidence, right = levels[-1]
    answered = confidence >= (math.inf if sure_from is None else sure_from)
    correct = answered & right
    found = []
    for confidence, right in reversed(levels[:-1]):
        threshold = _threshold(confidence, right, groups, answered, correct, precision)
        new = ~answered & (confidence >= (math.inf if threshold is None else threshold))
        found.append(
            LevelAnswers(threshold=threshold, photos=int(new.sum()), right=int((new & right).sum()))
        )
        answered, correct = answered | new, correct | (new & right)
    return tuple(reversed(found))


def _threshold(
    confidence: Floats,
    right: NDArray[np.bool_],
    groups: NDArray[Any],
    answered: NDArray[np.bool_],
    correct: NDArray[np.bool_],
    precision: float,
) -> float | None:
    """Returns the lowest probability from which a level's likeliest node is an answer."""
    rest = np.flatnonzero(~answered)
    rest = rest[np.argsort(-confidence[rest], kind="stable")]
    values = confidence[rest]
    ends = np.flatnonzero(np.r_[values[1:] != values[:-1], True][: len(values)])
    cuts = ends[share_places((ends + 1).tolist())]
    added = np.cumsum(right[rest])
    before, good = int(answered.sum()), int(correct.sum())
    known = set(groups[answered].tolist())
    for cut in cuts[::-1]:
        if added[cut] < precision * (cut + 1) - 1e-9:
            continue
        count = len(known | set(groups[rest[: cut + 1]].tolist()))
        share = (good + added[cut]) / (before + cut + 1)
        if is_claimable(count * share, count, precision):
            return float(values[cut])
    return None


def mean_distance(taxonomy: Taxonomy, predicted: Integers, targets: Integers) -> float | None:
    """Returns the mean tree distance of wrong predictions; None without one.

    See `finetune.photos.taxonomy.Taxonomy.distances`.
    """
    wrong = predicted != targets
    if not wrong.any():
        return None
    return float(taxonomy.distances(predicted[wrong], targets[wrong]).mean())


def level_metrics(
    taxonomy: Taxonomy,
    curves: Sequence[PrecisionCurve],
    probabilities: Floats,
    targets: Integers,
    *,
    precision: float = PRECISION,
) -> list[dict[str, Any]]:
    """Returns accuracy and coverage of each level from the top.

    Each has the name of the level, the number of its nodes, how many photos are right there, how
    many are sure at the precision, and how many of these are right.

    Args:
        taxonomy: Of the labels.
        curves: Precision of each level.
        probabilities: Of the labels, ``(N, C)``.
        targets: True labels, ``(N,)``.
        precision: To claim.
    """
    found = []
    for level, curve in enumerate(curves):
        shares = taxonomy.at(level, probabilities)
        right = shares.argmax(axis=1) == taxonomy.ancestors[level][targets]
        claim = curve.claim(precision)
        sure = shares.max(axis=1) >= (claim.threshold if claim else math.inf)
        found.append(
            {
                "level": taxonomy.levels[level],
                "nodes": len(taxonomy.nodes[level]),
                "right": int(right.sum()),
                "photos": len(right),
                "sure": int(sure.sum()),
                "sure_right": int((sure & right).sum()),
            }
        )
    return found
