"""Cross-fitting of heads: logits of photos and labels held out of training.

A validation part is enough to choose an L2 strength, but too small for a temperature. Every photo
gets logits from a head that was not fitted on it, and from one that was not fitted on its label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune import __version__
from finetune.demo_data.species import SPECIES
from finetune.demo_data.strangers import DRAWN_BIRDS, PICTURES, STRANGERS, draw_strangers
from finetune.errors import ConfigError
from finetune.evaluation.cross_fit import LABEL_FOLDS, CrossFit, HeldOutLogits, cross_fit
from finetune.evaluation.feature_distance import (
    BANK_PHOTOS,
    BASIS_PHOTOS,
    FeatureDistance,
    Neighbors,
    find_basis,
    fit_relative_distance,
    unit_length,
)
from finetune.evaluation.probabilities import Floats
from finetune.photos.crops import crop_and_resize
from finetune.photos.split.split import fold_groups
from finetune.training.linear_probe.features import FitInterruptedError, ProbePhotos
from finetune.training.linear_probe.heads import (
    SEARCH_TOLERANCE,
    FittedHead,
    HeadFitter,
    Progress,
)
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
    groups = _groups(prepared)
    folds = _folds(prepared, fitter.photos, groups)
    if folds is None:
        return None
    rng = np.random.default_rng((prepared.config.machine.seed, 0xF01D))
    progress = prepared.progress("Holding photos and labels out", "heads")

    def report(done: int, total: int) -> None:
        if stop():
            raise FitInterruptedError
        progress(done, total)

    outputs = cross_fit_heads(fitter, fitted, groups, folds, rng=rng, progress=report)
    distance = fit_distance(fitter.photos, fitted.learned, rng=rng)
    strangers = _predict_strangers(prepared, fitter, fitted, distance)
    return HeldOut(outputs=dataclasses.replace(outputs, strangers=strangers), distance=distance)


def cross_fit_heads(
    fitter: HeadFitter,
    fitted: FittedHead,
    groups: NDArray[Any],
    folds: NDArray[np.int64],
    *,
    rng: np.random.Generator,
    progress: Progress = lambda done, total: None,
) -> CrossFit:
    """Returns cross-fit logits and distances of photos and labels, by heads like the fitted one.

    Args:
        fitter: Fits on the photos.
        fitted: Its strength is used.
        groups: ``(N,)``, near-duplicate group of each photo.
        folds: ``(N,)``, the fold in which a photo is held out, or -1.
        rng: Draws the photos of a large distance, and the folds of labels.
        progress: Called as ``progress(done, total)`` before each head.
    """
    photos = fitter.photos
    targets = photos.targets.astype(np.int64)
    labels = len(np.unique(targets))
    heads = int(folds.max()) + 1 + (min(LABEL_FOLDS, labels) if labels > 2 else 0)
    done = 0

    def fit(learned: NDArray[np.bool_], held: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        nonlocal done
        progress(done, heads)
        done += 1
        rows, others = np.flatnonzero(learned), np.flatnonzero(held)
        # Never from the fitted head, which has learned these photos: see `fit_head`.
        fold = int(photos.folds[others[0]])
        if fold in fitted.of_folds and np.array_equal(held, photos.folds == fold):
            solution = fitted.of_folds[fold]
        else:
            solution = fitter.fit(rows, fitted.strength, tolerance=SEARCH_TOLERANCE)
        distance = fit_distance(photos, rows, rng=rng)
        return fitter.logits(solution, others).astype(np.float64), photos.map(others, distance)

    return cross_fit(targets, groups, folds, fit, rng=rng)


def _predict_strangers(
    prepared: Prepared, fitter: HeadFitter, fitted: FittedHead, distance: FeatureDistance
) -> dict[str, HeldOutLogits]:
    """Returns the predictions of pictures of other subjects; drawn birds only where unlearned."""
    head = fitter.head(fitted.solution)
    spec = prepared.preprocessing
    drawn_labels = {species.name for species in SPECIES} & set(prepared.data_split.labels)
    found = {}
    for kind in STRANGERS:
        if kind == DRAWN_BIRDS and drawn_labels:
            continue

        def images(kind: str = kind) -> list[NDArray[np.uint8]]:
            return [
                crop_and_resize(
                    picture, size=spec.working_size, fit=spec.fit, interpolation=spec.interpolation
                )
                for picture in draw_strangers(kind)
            ]

        # A later version may draw other pictures.
        features = fitter.photos.features.of_drawn(f"{kind} {__version__}", PICTURES, images)
        found[kind] = HeldOutLogits(
            logits=head(features).double().numpy(),
            targets=np.full(PICTURES, -1),
            groups=np.arange(PICTURES),
            distances=distance(features.double().numpy()),
        )
    return found


def fit_distance(
    photos: ProbePhotos, rows: NDArray[np.int64], *, rng: np.random.Generator
) -> FeatureDistance:
    """Returns the feature distance that is fitted on some of the photos."""

    def some(most: int) -> NDArray[np.int64]:
        return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))

    basis = find_basis(photos.map(some(BASIS_PHOTOS), lambda features: features))
    coordinates = photos.map(rows, basis)
    targets = photos.targets[rows].astype(np.int64)
    relative = fit_relative_distance(coordinates, targets).composed_with(basis)
    bank = photos.map(some(BANK_PHOTOS), unit_length).astype(np.float16)
    return FeatureDistance(relative=relative, neighbors=Neighbors(bank=bank))


def _groups(prepared: Prepared) -> NDArray[np.str_]:
    """Returns the near-duplicate group of each photo."""
    split = prepared.data_split
    group_of = {row.path: row.group for row in split.rows}
    samples = [*split.samples["train"], *split.samples["validation"]]
    return np.array([group_of[sample.path] for sample in samples])


def _folds(
    prepared: Prepared, photos: ProbePhotos, groups: NDArray[np.str_]
) -> NDArray[np.int64] | None:
    """Returns the fold of each photo: whole groups, about as many photos as validation has."""
    if prepared.data_split.folds is not None:
        return photos.folds
    held = int((photos.folds >= 0).sum())
    if held >= ENOUGH_PHOTOS:
        return photos.folds
    # Heads are then fitted on as many photos as the run's own head.
    count = min(MOST_FOLDS, max(3, round(len(photos.targets) / max(held, 1))))
    labels = [prepared.data_split.labels[target] for target in photos.targets]
    seed = prepared.config.machine.seed
    try:
        folds = fold_groups(labels, groups.tolist(), folds=count, seed=seed)
    except ConfigError:
        return None
    return np.array(folds, np.int64)
