"""Trains a head on features that a frozen backbone gives once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.augmentation.batch_augment import BatchAugment
from finetune.data.dataset import PhotoDataset
from finetune.models.features import AugmentedView, FeatureCache
from finetune.models.heads import write_head
from finetune.photos.collection import Part
from finetune.training.events import Note
from finetune.training.linear_probe.feature_source import head_logits
from finetune.training.linear_probe.heads import HeadData, train_heads
from finetune.training.linear_probe.held_out import hold_out
from finetune.training.prepared import Prepared
from finetune.training.results import TrainingOutput

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_on_features(
    prepared: Prepared, accelerator: Accelerator, stop: Callable[[], bool]
) -> TrainingOutput:
    """Returns the network with a head that was trained on its features of the job's photos."""
    device = accelerator.device
    module = prepared.loaded.module.to(device).eval()
    datasets = prepared.datasets()
    with feature_cache(prepared, datasets) as features:
        data = HeadData(
            features=features,
            views=fill(prepared, features, datasets),
            train=datasets["train"],
            validation=datasets["validation"],
        )
        found = train_heads(prepared, accelerator, data, stop=stop)
        if len(found.strengths) > 1:
            prepared.callback(Note(text=found.describe()))
        held_out = hold_out(prepared, data, found, device=device, stop=stop)
        weight, bias = found.head.folded()
        write_head(module, weight.to(device), bias.to(device))
        classifier = module.get_classifier()  # type: ignore[operator]
        logits: dict[Part, NDArray[np.float32]] = {
            part: np.asarray(head_logits(classifier, features, features.keys(photos)))
            for part, photos in datasets.items()
            if part != "train" and len(photos)
        }
    return TrainingOutput(
        module=module,
        logits=logits,
        position=found.position,
        finished=found.finished,
        held_out=held_out,
    )


def fill_features_only(prepared: Prepared, accelerator: Accelerator) -> None:
    """Computes this process's shard of the features; the main process trains the head."""
    prepared.loaded.module.to(accelerator.device).eval()
    datasets = prepared.datasets()
    with feature_cache(prepared, datasets) as features:
        fill(prepared, features, datasets)


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


def fill(
    prepared: Prepared, features: FeatureCache, datasets: Mapping[Part, PhotoDataset]
) -> list[list[bytes]]:
    """Computes the features that are missing; returns the keys of the training photos' views.

    Several processes share the photos, and each finds all features there when this returns.
    """
    workers, share = prepared.config.machine.workers, prepared.world.shard
    for part, photos in datasets.items():
        stage = f"Features of {part}"
        features.fill(photos, workers=workers, progress=prepared.progress(stage), shard=share)
    train = datasets["train"]
    views = views_of(prepared)
    for view in views:
        stage = f"Features of view {view.number + 1}"
        features.fill(
            train, view=view, workers=workers, progress=prepared.progress(stage), shard=share
        )
    prepared.world.barrier()
    features.records.refresh()
    return [features.keys(train), *(features.keys(train, view) for view in views)]


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
