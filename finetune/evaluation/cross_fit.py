"""Cross-fit predictions of held-out photos and of held-out labels.

The temperature and the thresholds of sure and unknown photos are fitted on predictions for new
photos. On cached features a head is fitted quickly, so that photos and labels can be held out in
turn (`cross_fit`); for a full network the validation photos are all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.feature_distance import FeatureDistance
from finetune.evaluation.out_of_distribution import (
    Power,
    UnknownDetector,
    fit_mixture,
    log_odds,
    saved_scores,
)
from finetune.evaluation.precision_curve import PrecisionCurve, precision_curve
from finetune.evaluation.probabilities import Floats, Integers, check, softmax
from finetune.messages import marked

FitHead = Callable[[NDArray[np.bool_], NDArray[np.bool_]], tuple[Floats, Floats]]
"""Takes masks ``(N,)`` of the photos to train on and of those to predict; returns the logits
``(K, C)`` of the latter and the in-distribution scores of their features, ``(K, D)``."""

LABEL_FOLDS = 10
"""Maximum number of heads fitted without some of the labels."""


@dataclass(frozen=True, kw_only=True)
class HeldOutLogits:
    """Logits of photos by networks that were not trained on them.

    Attributes:
        logits: ``(K, C)``, without the columns of held-out labels.
        targets: ``(K,)``.
        groups: ``(K,)``, near-duplicate group of each photo.
        distances: ``(K, D)`` in-distribution scores of their features, or None.
    """

    logits: Floats
    targets: Integers
    groups: NDArray[Any]
    distances: Floats | None = None

    def odds(self, temperature: float) -> Floats:
        """Returns the log odds of each photo's likeliest label, ``(K,)``."""
        return log_odds(self.logits, temperature=temperature)


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """Cross-fit logits of held-out photos and of held-out labels.

    Attributes:
        known: Photos of known labels.
        unknown: Photos of held-out labels, one group per head; empty for fewer than three labels.
        strangers: Pictures of other subjects by kind, predicted by the final network.
    """

    known: HeldOutLogits
    unknown: tuple[HeldOutLogits, ...] = ()
    strangers: Mapping[str, HeldOutLogits] = field(default_factory=dict)


def fit_precision(
    known: HeldOutLogits, *, temperature: float, detector: UnknownDetector | None = None
) -> PrecisionCurve:
    """Returns the precision of held-out photos by the probability of their likeliest label.

    Args:
        known: The photos.
        temperature: Divides the logits.
        detector: Photos that it takes for unknown are never sure, and are left out.
    """
    probabilities = softmax(known.logits, temperature=temperature)
    correct = probabilities.argmax(axis=1) == known.targets
    unknown = None
    if detector is not None:
        scores = detector.scores(known.logits, known.distances, temperature=temperature)
        unknown = detector.is_unknown(scores)
    return precision_curve(probabilities.max(axis=1), correct, known.groups, unknown=unknown)


def fit_detector(
    outputs: CrossFit, *, temperature: float, distance: FeatureDistance | None
) -> UnknownDetector:
    """Returns the detector of unknown photos, with its power on held-out labels.

    Args:
        outputs: Of held-out photos; without distances the logits alone decide.
        temperature: Divides the logits.
        distance: Of the final network; the cross-fit ones come from others like it.
    """
    known = outputs.known
    mixture = None
    if known.distances is not None:
        mixture = fit_mixture(known.odds(temperature), known.distances)
    detector = UnknownDetector(
        score="max_logit" if mixture is None else "odds_and_distance",
        mixture=mixture,
        distance=distance,
    )

    def scores(group: HeldOutLogits) -> Floats:
        return detector.scores(group.logits, group.distances, temperature=temperature)

    detector = dataclasses.replace(
        detector, known_scores=saved_scores(scores(known)), photos=len(known.targets)
    )
    others = {marked("labels left out"): outputs.unknown} if outputs.unknown else {}
    others |= {kind: (group,) for kind, group in outputs.strangers.items()}
    power = []
    for subject, groups in others.items():
        flagged = np.concatenate([detector.is_unknown(scores(group)) for group in groups])
        power.append(Power(subject=subject, photos=len(flagged), detected=int(flagged.sum())))
    return dataclasses.replace(detector, power=tuple(power))


def cross_fit(
    targets: Integers,
    groups: NDArray[Any],
    folds: Integers,
    fit: FitHead,
    *,
    rng: np.random.Generator,
) -> CrossFit:
    """Returns cross-fit logits of every photo, and of every photo with its label held out.

    A head per fold is trained on the other folds and predicts the fold. Then the labels are split
    into at most `LABEL_FOLDS` folds, and a head per fold is trained without these labels and
    predicts their photos. With two labels none can be held out.

    Args:
        targets: ``(N,)`` true indices.
        groups: ``(N,)``, near-duplicate group of each photo.
        folds: ``(N,)``, the fold in which a photo is held out; -1: always in training.
        fit: Trains a head. It must not use the photos to predict in any way, not even for a
            principal component analysis.
        rng: Assigns labels to folds.

    Raises:
        ModelError: Some logits are not finite.
    """

    def predict(held_out: NDArray[np.bool_]) -> HeldOutLogits:
        predicted, distances = fit(~held_out, held_out)
        logits, truth = check(predicted, targets[held_out])
        return HeldOutLogits(
            logits=logits, targets=truth, groups=groups[held_out], distances=distances
        )

    known = _joined([predict(folds == fold) for fold in np.unique(folds[folds >= 0])])
    present = np.unique(targets)
    if len(present) < 3:
        return CrossFit(known=known)
    count = min(LABEL_FOLDS, len(present))
    fold_of = np.full(known.logits.shape[1], -1)
    fold_of[present] = rng.permutation(np.arange(len(present)) % count)
    unknown = []
    for fold in range(count):
        group = predict(fold_of[targets] == fold)
        learned = (fold_of != fold) & (fold_of >= 0)
        unknown.append(dataclasses.replace(group, logits=group.logits[:, learned]))
    return CrossFit(known=known, unknown=tuple(unknown))


def _joined(parts: Sequence[HeldOutLogits]) -> HeldOutLogits:
    return HeldOutLogits(
        logits=np.concatenate([part.logits for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        groups=np.concatenate([part.groups for part in parts]),
        distances=np.concatenate([part.distances for part in parts if part.distances is not None]),
    )
