"""Heads on shares of the photos, for a learning curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.learning_curve import CurveOutputs, LearningCurve, fit_learning_curve
from finetune.evaluation.probabilities import Integers
from finetune.models.linear_solver import Solution
from finetune.training.linear_probe.features import FitInterruptedError
from finetune.training.linear_probe.heads import (
    SEARCH_TOLERANCE,
    FittedHead,
    HeadFitter,
    Strength,
)
from finetune.training.prepared import Prepared

FEWEST_PHOTOS = 30
"""Held-out photos below which a learning curve would only show chance."""

TRAINING_SHARES = (0.15, 0.3, 0.6, 1.0)
"""Shares of the groups in a training, which takes one draw of each; a report takes all."""


def training_curve(
    prepared: Prepared,
    fitter: HeadFitter,
    fitted: FittedHead,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> LearningCurve | None:
    """Returns the learning curve of a training from one draw of each share.

    None where photos may have several labels, or too few are held out.

    Raises:
        FitInterruptedError: `stop` returned True.
    """
    split = prepared.data_split
    if split.task.multi_label or (fitter.photos.folds >= 0).sum() < FEWEST_PHOTOS:
        return None
    groups = np.concatenate([split.groups(part) for part in ("train", "validation")])
    rng = np.random.default_rng((prepared.config.machine.seed, 0xC0DE))
    outputs = curve_outputs(
        fitter,
        fitted.strength,
        groups,
        shares=TRAINING_SHARES,
        draws=1,
        rng=rng,
        complete=fitted.held_out.logits.argmax(axis=1),
        stop=stop,
    )
    return fit_learning_curve(outputs, rng=rng)


def curve_outputs(
    fitter: HeadFitter,
    strength: Strength,
    groups: NDArray[Any],
    *,
    shares: Sequence[float],
    draws: int,
    rng: np.random.Generator,
    complete: Integers | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> CurveOutputs:
    """Returns predictions of held-out photos by heads on shares of the other groups.

    In each draw the groups of a label are in a random order, and a share takes the first of them,
    at least one: so the photos of a small share are among those of a larger one.

    Args:
        fitter: Fits on the photos, whose folds say which are held out together.
        strength: Of the heads.
        groups: ``(N,)``, near-duplicate group of each photo.
        shares: Ascending, the last is 1.
        draws: Number of draws.
        rng: Draws the orders.
        complete: Labels that heads on all photos give the held-out ones, in their order, ``(K,)``;
            None: they are fitted.
        stop: Returns whether to stop.

    Raises:
        FitInterruptedError: `stop` returned True.
    """
    folds = fitter.photos.folds
    targets = fitter.photos.targets.astype(np.int64)
    held = np.flatnonzero(folds >= 0)
    predicted = np.zeros((len(shares), draws, len(held)), np.int64)
    photos = np.zeros((len(shares), draws))
    places = np.zeros(len(folds), np.int64)
    places[held] = np.arange(len(held))
    numbers = np.unique(folds[held])
    for draw in range(draws):
        rank = _ranks(targets, groups, rng)
        for fold in numbers:
            rows, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            solution: Solution | None = None
            for place, share in enumerate(shares):
                if share == 1 and (complete is not None or draw > 0):
                    continue
                if stop():
                    raise FitInterruptedError
                learned = rows[_taken(rank[rows], targets[rows], share)]
                photos[place, draw] += len(learned) / len(numbers)
                # A smaller share is part of a larger one, so its head knows nothing more.
                solution = fitter.fit(learned, strength, start=solution, tolerance=SEARCH_TOLERANCE)
                found = fitter.logits(solution, asked).argmax(axis=1)
                predicted[place, draw, places[asked]] = found
    if complete is not None:
        predicted[-1] = complete
        photos[-1] = np.mean([(folds != fold).sum() for fold in numbers])
    else:
        predicted[-1], photos[-1] = predicted[-1, 0], photos[-1, 0]
    return CurveOutputs(
        shares=tuple(shares),
        photos=tuple(photos.mean(axis=1).tolist()),
        predicted=predicted,
        targets=targets[held],
        groups=groups[held],
    )


def _ranks(
    targets: NDArray[np.int64], groups: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Returns a random number in [0, 1) for each photo, equal within a group."""
    inverse = np.unique(groups, return_inverse=True)[1]
    return np.asarray(rng.random(int(inverse.max()) + 1)[inverse])


def _taken(
    rank: NDArray[np.float64], targets: NDArray[np.int64], share: float
) -> NDArray[np.bool_]:
    """Returns which photos the first groups of each label make up, ``(N,)``."""
    found = np.zeros(len(rank), bool)
    for label in np.unique(targets):
        of_label = np.flatnonzero(targets == label)
        order = np.unique(rank[of_label])
        last = order[max(1, round(share * len(order))) - 1]
        found[of_label[rank[of_label] <= last]] = True
    return found
