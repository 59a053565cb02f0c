"""Cross-fitting of heads: logits of photos and labels held out of training.

A validation part is enough to choose an epoch, but too small for a temperature. Heads on
cached features train in seconds, so every training and validation photo gets logits from a head
that was not trained on it, and from one that was not trained on its label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.data.balance import strata
from finetune.data.loaders import epoch_batches, steps_per_epoch
from finetune.errors import ConfigError
from finetune.evaluation.cross_fit import LABEL_FOLDS, cross_fit
from finetune.evaluation.out_of_distribution import (
    BASIS_PHOTOS,
    RelativeDistance,
    find_basis,
    fit_relative_distance,
)
from finetune.evaluation.probabilities import Floats
from finetune.models.features import FeatureCache, standardization
from finetune.models.heads import FeatureHeads
from finetune.photos.split.split import fold_groups
from finetune.training.linear_probe.feature_source import head_logits
from finetune.training.linear_probe.heads import (
    HEAD_OPTIMIZER,
    HeadData,
    TrainedHead,
    minimize_head,
)
from finetune.training.optimizer import DEFAULT_OPTIMIZER, make_optimizer, set_lr
from finetune.training.prepared import Prepared
from finetune.training.results import HeldOut
from finetune.training.schedule import Schedule

ENOUGH_PHOTOS = 1000
"""Number of validation photos from which only these are held out."""

MOST_FOLDS = 8
"""Largest number of folds."""

CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class CachedPhotos:
    """Training and validation photos with their cached features.

    Attributes:
        views: Keys of each photo's features, one list a view.
        targets: ``(N,)``.
    """

    features: FeatureCache
    views: Sequence[Sequence[bytes]]
    targets: NDArray[np.int64]

    def keys(self, rows: NDArray[np.int64], view: int = 0) -> list[bytes]:
        """Returns the keys of some of the photos."""
        return [self.views[view][index] for index in rows.tolist()]

    def map(self, rows: NDArray[np.int64], function: Callable[[Floats], Floats]) -> Floats:
        """Returns a function's rows for the features of some photos, read in chunks."""
        parts = [
            function(self.features.read(self.keys(rows[start : start + CHUNK])).double().numpy())
            for start in range(0, len(rows), CHUNK)
        ]
        return np.concatenate(parts)


def hold_out(
    prepared: Prepared,
    data: HeadData,
    trained: TrainedHead,
    *,
    device: torch.device,
    stop: Callable[[], bool],
) -> HeldOut | None:
    """Returns cross-fit logits of held-out photos and labels, by heads like the trained one.

    None where photos may have several labels, the training was interrupted, or no label has enough
    photos to hold some out.
    """
    if not prepared.data_split.task.detects_unknown or not trained.finished:
        return None
    train, validation = data.train, data.validation
    count = len(train)
    requested = data.features.keys(validation)
    kept = CachedPhotos(
        features=data.features,
        # Augmented views are of training photos alone.
        views=[[*view, *requested] for view in data.views],
        targets=np.concatenate([train.targets, validation.targets]).astype(np.int64),
    )
    folds = _folds(prepared, kept.targets, count)
    if folds is None:
        return None
    rng = np.random.default_rng((prepared.config.machine.seed, 0xF01D))
    labels = len(np.unique(kept.targets))
    heads = int(folds.max()) + 1 + (min(LABEL_FOLDS, labels) if labels > 2 else 0)
    progress = prepared.progress("Holding photos and labels out")
    done = 0

    def fit(learned: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        nonlocal done
        if stop():
            raise _StoppedError
        rows, others = np.flatnonzero(learned), np.flatnonzero(wanted)
        head = _retrain(prepared, kept, rows, trained, device)
        logits = head_logits(head, kept.features, kept.keys(others)).double().numpy()
        distance = fit_distance(kept, rows, rng=rng)
        done += 1
        progress(done, heads)
        return logits, kept.map(others, distance)

    try:
        outputs = cross_fit(kept.targets, folds, fit, rng=rng)
    except _StoppedError:
        return None
    return HeldOut(outputs=outputs, distance=fit_distance(kept, np.arange(count), rng=rng))


class _StoppedError(Exception):
    """Raised when the training is interrupted."""


def fit_distance(
    kept: CachedPhotos, rows: NDArray[np.int64], *, rng: np.random.Generator
) -> RelativeDistance:
    """Returns the feature distance that is fitted on some of the photos."""
    some = rows
    if len(rows) > BASIS_PHOTOS:
        some = np.sort(rng.choice(rows, BASIS_PHOTOS, replace=False))
    basis = find_basis(kept.map(some, lambda features: features))
    coordinates = kept.map(rows, basis)
    return fit_relative_distance(coordinates, kept.targets[rows]).composed_with(basis)


def _folds(
    prepared: Prepared, targets: NDArray[np.int64], trained_on: int
) -> NDArray[np.int64] | None:
    """Returns the fold of each photo: whole groups, about as many photos as validation has."""
    held = len(targets) - trained_on
    if held >= ENOUGH_PHOTOS:
        return np.where(np.arange(len(targets)) < trained_on, -1, 0)
    # Heads are then trained on as many photos as the run's own head.
    count = min(MOST_FOLDS, max(3, round(len(targets) / max(held, 1))))
    group_of = {row.path: row.group for row in prepared.data_split.rows}
    samples = [*prepared.data_split.samples["train"], *prepared.data_split.samples["validation"]]
    labels = [prepared.data_split.labels[target] for target in targets]
    groups = [group_of[sample.path] for sample in samples]
    try:
        folds = fold_groups(labels, groups, folds=count, seed=prepared.config.machine.seed)
    except ConfigError:
        return None
    return np.array(folds, np.int64)


def _retrain(
    prepared: Prepared,
    kept: CachedPhotos,
    rows: NDArray[np.int64],
    trained: TrainedHead,
    device: torch.device,
) -> FeatureHeads:
    """Returns a head that is trained on some of the photos as `trained` was on all.

    It has the same epochs (up to the best one), schedule, L2 strength, learning rate, start, loss
    and optimizer, and is minimized by the solver where `trained` was. Averages over epochs are not
    repeated, and a parent run's head is not used, since it has seen the photos.
    """
    views = len(kept.views)
    every = [key for view in range(views) for key in kept.keys(rows, view)]
    mean, std = standardization(kept.features.read, every)
    head = FeatureHeads(mean, std, len(prepared.data_split.labels), strengths=(trained.strength,))
    head = head.to(device)
    split = prepared.data_split
    split.task.initialize_head(head.first.linear, split.targets("train"))
    named = prepared.config.optimization.optimizer
    optimizer = make_optimizer(
        head.parameter_groups(lr=trained.lr),
        HEAD_OPTIMIZER if named == DEFAULT_OPTIMIZER else named,
    )
    loop_config, loading = prepared.loop_config(), prepared.loading(device)
    steps = steps_per_epoch(len(rows), loading.step_size)
    schedule = Schedule(
        steps=prepared.config.training.epochs * steps,
        warmup=loop_config.schedule.warmup,
        shape=loop_config.schedule.shape,
    )
    targets = kept.targets[rows]
    by_label: Any = None
    if loading.strata is not None:
        by_label = strata(targets, len(prepared.data_split.labels))
    step = 0
    for epoch in range(max(1, trained.position.best_epoch)):
        batches = epoch_batches(
            len(rows), loading.step_size, seed=loading.seed, epoch=epoch, strata=by_label
        )
        for batch in batches:
            set_lr(optimizer, schedule, step)
            shown = [kept.views[(index + epoch) % views][rows[index]] for index in batch.tolist()]
            inputs = kept.features.read(shown).to(device)
            loss = loop_config.objective.loss(
                head(inputs), torch.from_numpy(targets[batch]).to(device)
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
    if trained.max_evals:
        minimize_head(
            head.first,
            kept.features.read(every),
            torch.from_numpy(np.concatenate([targets] * views)),
            loop_config.objective.loss,
            strength=trained.strength,
            max_evals=trained.max_evals,
        )
    return head
