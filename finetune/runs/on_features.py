"""Trains a head on features that a frozen backbone gives once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from finetune.augmentation.gpu import BatchAugment
from finetune.models.features import FeatureCache, View, standardisation
from finetune.models.heads import FeatureHead, write_head
from finetune.photos.collection import Part
from finetune.runs.job import Job, Outcome
from finetune.training.engine import fit
from finetune.training.material import FeatureMaterial, head_logits
from finetune.training.optim import make_optimizer, parameter_groups
from finetune.training.state import TrainState

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_on_features(job: Job, accelerator: Accelerator, stop: Callable[[], bool]) -> Outcome:
    """Returns the network with a head that was trained on its features of the job's photos."""
    device = accelerator.device
    module = job.loaded.module.to(device).eval()
    loading = job.loading(device)
    datasets = job.datasets()
    with contextlib.closing(FeatureCache(job.home, module, job.spec)) as features:
        for part, photos in datasets.items():
            features.fill(
                photos, workers=loading.workers, progress=job.progress(f"Features of {part}")
            )
        train = datasets["train"]
        views = _views(job)
        for view in views:
            features.fill(
                train,
                view=view,
                workers=loading.workers,
                progress=job.progress(f"Features of view {view.number + 1}"),
            )
        keys = [features.keys(train), *(features.keys(train, view) for view in views)]
        mean, std = standardisation(features.read, [key for view in keys for key in view])
        head = FeatureHead(mean, std, len(job.parts.labels)).to(device)
        groups = parameter_groups(
            head.parameters(),
            part="head",
            lr=job.lr,
            weight_decay=job.config.training.weight_decay,
        )
        state = TrainState(head, make_optimizer(groups))
        if job.run.last_checkpoint.is_file():
            state.load(job.run.last_checkpoint)
        material = FeatureMaterial(
            head,
            features,
            (keys, torch.from_numpy(train.targets)),
            datasets["validation"],
            loading=loading,
        )
        finished = fit(state, material, job.plan(), accelerator, listen=job.log, stop=stop)
        if job.run.best_checkpoint.is_file():
            head.load_state_dict(load_file(job.run.best_checkpoint))
        weight, bias = head.folded()
        write_head(module, weight.to(device), bias.to(device))
        classifier = module.get_classifier()  # type: ignore[operator]
        logits: dict[Part, NDArray[np.float32]] = {
            part: np.asarray(head_logits(classifier, features, features.keys(photos)))
            for part, photos in datasets.items()
            if part != "train" and len(photos)
        }
    return Outcome(module=module, logits=logits, position=state.position, finished=finished)


def _views(job: Job) -> list[View]:
    """Returns the augmented views that the head learns from, beside the photo as it is."""
    if job.recipe is None or job.config.training.views == 1:
        return []
    spec = job.spec
    augment = BatchAugment(
        job.recipe, size=spec.size, mean=spec.mean, std=spec.std, seed=job.config.machine.seed
    )
    return [View(augment=augment, number=n) for n in range(1, job.config.training.views)]
