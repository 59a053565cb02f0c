"""Cross-fitting of heads: logits of photos and labels held out of training.

A validation part is enough to choose an L2 strength, but too small for a temperature. Every photo
gets logits from a head that was not fitted on it, and from one that was not fitted on its label.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError
from finetune.evaluation.cross_fit import LABEL_FOLDS, cross_fit
from finetune.evaluation.out_of_distribution import (
    BASIS_PHOTOS,
    RelativeDistance,
    find_basis,
    fit_relative_distance,
)
from finetune.evaluation.probabilities import Floats
from finetune.photos.split.split import fold_groups
from finetune.training.linear_probe.features import FitInterruptedError, ProbePhotos
from finetune.training.linear_probe.heads import SEARCH_TOLERANCE, FittedHead, HeadFitter
from finetune.training.prepared import Prepared
from finetune.training.results import HeldOut

ENOUGH_PHOTOS = 1000
"""Number of validation photos from which only these are held out."""

MOST_FOLDS = 8
"""Largest number of folds."""


def hold_out(
    prepared: Prepared,
    fitter: HeadFitter,
    fitted: FittedHead,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> HeldOut | None:
    """Returns cross-fit logits of held-out photos and labels, by heads like the fitted one.

    None where photos may have several labels, or no label has enough photos to hold some out.

    Raises:
        FitInterruptedError: `stop` returned True.
    """
    if not prepared.data_split.task.detects_unknown:
        return None
    photos = fitter.photos
    targets = photos.targets.astype(np.int64)
    folds = _folds(prepared, photos)
    if folds is None:
        return None
    rng = np.random.default_rng((prepared.config.machine.seed, 0xF01D))
    labels = len(np.unique(targets))
    heads = int(folds.max()) + 1 + (min(LABEL_FOLDS, labels) if labels > 2 else 0)
    progress = prepared.progress("Holding photos and labels out", "heads")
    done = 0

    def fit(learned: NDArray[np.bool_], held: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        nonlocal done
        if stop():
            raise FitInterruptedError
        rows, others = np.flatnonzero(learned), np.flatnonzero(held)
        # Not from the fitted head, which has seen the photos that are held out here.
        solution = fitter.fit(rows, fitted.strength, tolerance=SEARCH_TOLERANCE)
        distance = fit_distance(photos, rows, rng=rng)
        done += 1
        progress(done, heads)
        return fitter.logits(solution, others).astype(np.float64), photos.map(others, distance)

    outputs = cross_fit(targets, folds, fit, rng=rng)
    return HeldOut(outputs=outputs, distance=fit_distance(photos, fitted.learned, rng=rng))


def fit_distance(
    photos: ProbePhotos, rows: NDArray[np.int64], *, rng: np.random.Generator
) -> RelativeDistance:
    """Returns the feature distance that is fitted on some of the photos."""
    some = rows
    if len(rows) > BASIS_PHOTOS:
        some = np.sort(rng.choice(rows, BASIS_PHOTOS, replace=False))
    basis = find_basis(photos.map(some, lambda features: features))
    coordinates = photos.map(rows, basis)
    targets = photos.targets[rows].astype(np.int64)
    return fit_relative_distance(coordinates, targets).composed_with(basis)


def _folds(prepared: Prepared, photos: ProbePhotos) -> NDArray[np.int64] | None:
    """Returns the fold of each photo: whole groups, about as many photos as validation has."""
    if prepared.data_split.folds is not None:
        return photos.folds
    held = int((photos.folds >= 0).sum())
    if held >= ENOUGH_PHOTOS:
        return photos.folds
    # Heads are then fitted on as many photos as the run's own head.
    count = min(MOST_FOLDS, max(3, round(len(photos.targets) / max(held, 1))))
    split = prepared.data_split
    group_of = {row.path: row.group for row in split.rows}
    samples = [*split.samples["train"], *split.samples["validation"]]
    labels = [split.labels[target] for target in photos.targets]
    groups = [group_of[sample.path] for sample in samples]
    try:
        folds = fold_groups(labels, groups, folds=count, seed=prepared.config.machine.seed)
    except ConfigError:
        return None
    return np.array(folds, np.int64)
