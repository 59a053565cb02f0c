"""Cached features of the photos of a linear probe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.augmentation.batch_augment import BatchAugment
from finetune.data.dataset import PhotoDataset
from finetune.evaluation.probabilities import Floats
from finetune.models.features import AugmentedView, FeatureCache
from finetune.photos.collection import Part
from finetune.training.events import Note
from finetune.training.prepared import Prepared

if TYPE_CHECKING:
    from accelerate import Accelerator

CHUNK = 1024


class FitInterruptedError(Exception):
    """Raised when a linear probe is interrupted; its features so far are cached."""


class LostPhotosError(Exception):
    """Raised when photos have vanished or changed since the scan; all others have features.

    Attributes:
        lost: Reasons by path.
    """

    def __init__(self, lost: Mapping[str, str]) -> None:
        super().__init__(", ".join(lost))
        self.lost = lost


@dataclass(frozen=True, kw_only=True)
class ProbePhotos:
    """Training and validation photos of a linear probe with their cached features.

    Attributes:
        views: Keys of the features, one list of N a view; the first is of the photos themselves.
        targets: ``(N,) int64``, or ``(N, C) float32`` where a photo may have several labels.
        folds: ``(N,)``, the fold that holds a photo out, or -1; a validation part is one fold.
    """

    features: FeatureCache
    views: Sequence[Sequence[bytes]]
    targets: NDArray[Any]
    folds: NDArray[np.int64]

    def map(self, rows: NDArray[np.int64], function: Callable[[Floats], Floats]) -> Floats:
        """Returns a function's rows for the features of some photos, read in chunks."""
        keys = [self.views[0][index] for index in rows.tolist()]
        parts = [
            function(self.features.read(keys[start : start + CHUNK]).double().numpy())
            for start in range(0, len(keys), CHUNK)
        ]
        return np.concatenate(parts)


def feature_cache(
    prepared: Prepared, datasets: Mapping[Part, PhotoDataset]
) -> contextlib.closing[FeatureCache]:
    """Opens the feature cache of the backbone, in channels-last layout."""
    module = prepared.loaded.module.eval()
    if next(module.parameters()).device.type != "mps":
        module = module.to(memory_format=torch.channels_last)
    expected = sum(len(photos) for photos in datasets.values())
    expected += len(views_of(prepared)) * len(datasets["train"])
    return contextlib.closing(
        FeatureCache(
            prepared.cache_dir,
            module,
            prepared.preprocessing,
            expected=expected,
            note=lambda text: prepared.callback(Note(text=text)),
        )
    )


def fill_features(
    prepared: Prepared,
    features: FeatureCache,
    datasets: Mapping[Part, PhotoDataset],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> ProbePhotos:
    """Computes the features that are missing; returns the training and validation photos.

    Several processes share the photos, and each finds all features there when this returns.

    Raises:
        FitInterruptedError: `stop` returned True.
        LostPhotosError: Photos have vanished or changed since the scan.
    """
    workers, share = prepared.config.machine.workers, prepared.world.shard

    def progress(stage: str) -> Callable[[int, int], None]:
        emit = prepared.progress(stage)

        def report(done: int, total: int) -> None:
            emit(done, total)
            if stop():
                raise FitInterruptedError

        return report

    for part, photos in datasets.items():
        stage = f"Features of {part}"
        features.fill(
            photos, workers=workers, progress=progress(stage), shard=share, leave_out=True
        )
    train, validation = datasets["train"], datasets["validation"]
    views = views_of(prepared)
    for view in views:
        stage = f"Features of view {view.number + 1}"
        features.fill(
            train,
            view=view,
            workers=workers,
            progress=progress(stage),
            shard=share,
            leave_out=True,
        )
    prepared.world.barrier()
    features.records.refresh()
    lost = {
        photos.samples[index].path: photos.lost.get(index, "has vanished or changed")
        for photos in datasets.values()
        for view in (None, *(views if photos is train else ()))
        for index, key in enumerate(features.keys(photos, view))
        if key not in features.records
    }
    if lost:
        raise LostPhotosError(lost)
    # Augmented views are of training photos alone.
    held_out = features.keys(validation)
    folds = prepared.data_split.folds
    if folds is None:
        folds = np.repeat(np.array([-1, 0]), [len(train), len(validation)])
    return ProbePhotos(
        features=features,
        views=[[*features.keys(train, view), *held_out] for view in (None, *views)],
        targets=np.concatenate([train.targets, validation.targets]),
        folds=folds,
    )


def fill_features_only(prepared: Prepared, accelerator: Accelerator) -> None:
    """Computes this process's shard of the features; the main process fits the head."""
    prepared.loaded.module.to(accelerator.device).eval()
    datasets = prepared.datasets()
    with feature_cache(prepared, datasets) as features:
        fill_features(prepared, features, datasets)


def views_of(prepared: Prepared) -> list[AugmentedView]:
    """Returns the augmented views of a photo, beside the photo itself."""
    recipe, views = prepared.config.recipe_or_none, prepared.config.training.views
    if recipe is None or views == 1:
        return []
    preprocessing = prepared.preprocessing
    augment = BatchAugment(
        recipe,
        size=preprocessing.size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        seed=prepared.config.machine.seed,
    )
    return [AugmentedView(augment=augment, number=number) for number in range(1, views)]
