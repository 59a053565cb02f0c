"""Held-out logits and features of a full training: those of the validation photos."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from finetune.data.dataset import PhotoDataset
from finetune.evaluation.cross_fit import CrossFit, HeldOutLogits
from finetune.evaluation.feature_distance import fit_feature_distance
from finetune.models.heads import has_linear_head
from finetune.models.inference import predict_dataset
from finetune.photos.collection import Part
from finetune.training.prepared import Prepared
from finetune.training.results import HeldOut

REFERENCE_PHOTOS = 1000
"""Maximum number of training photos whose features are computed."""


def hold_out_validation(
    prepared: Prepared,
    module: nn.Module,
    datasets: Mapping[Part, PhotoDataset],
    logits: NDArray[np.float32],
) -> HeldOut | None:
    """Returns the predictions of the validation photos with their distances from training photos.

    None where photos may have several labels, or the network has no linear head whose input could
    be compared: the logits alone then decide.

    Args:
        prepared: The training.
        module: Its network.
        datasets: Photos of each part.
        logits: ``(N, labels)`` of the validation photos.
    """
    if not prepared.data_split.task.detects_unknown or not has_linear_head(module):
        return None
    train, validation = datasets["train"], datasets["validation"]
    rng = np.random.default_rng((prepared.config.machine.seed, 0xF01E))
    places = np.arange(len(train))
    if len(places) > REFERENCE_PHOTOS:
        places = np.sort(rng.choice(places, REFERENCE_PHOTOS, replace=False))
    reference = _features(prepared, module, train, places, "Features of train")
    distance = fit_feature_distance(reference, np.asarray(train.targets)[places])
    every = np.arange(len(validation))
    features = _features(prepared, module, validation, every, "Features of validation")
    known = HeldOutLogits(
        logits=logits.astype(np.float64),
        targets=np.asarray(validation.targets, np.int64),
        groups=prepared.data_split.groups("validation"),
        distances=distance(features),
    )
    return HeldOut(outputs=CrossFit(known=known), distance=distance, part="validation")


def _features(
    prepared: Prepared,
    module: nn.Module,
    photos: PhotoDataset,
    places: NDArray[np.int64],
    stage: str,
) -> NDArray[np.float32]:
    features: list[NDArray[np.float32]] = []
    predict_dataset(
        module,
        prepared.preprocessing,
        photos,
        workers=prepared.config.machine.workers,
        progress=prepared.progress(stage),
        places=places,
        on_features=features.append,
    )
    return np.concatenate(features)
