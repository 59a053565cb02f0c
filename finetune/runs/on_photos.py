"""Trains on augmented photos: the full network, or its head alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from finetune.augmentation.pipeline import augmentation
from finetune.evaluation.inference import predict_dataset
from finetune.models.factory import rebuild
from finetune.models.heads import backbone_parameters, head_parameters
from finetune.photos.collection import Part
from finetune.runs.job import Job, Outcome
from finetune.training.engine import fit
from finetune.training.material import PhotoMaterial
from finetune.training.optim import make_optimizer, parameter_groups
from finetune.training.state import TrainState

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_on_photos(job: Job, accelerator: Accelerator, stop: Callable[[], bool]) -> Outcome:
    """Returns the network, trained from the job's photos as its mode says."""
    device = accelerator.device
    training = job.config.training
    module = job.loaded.module.to(device)
    if device.type != "mps":
        module = module.to(memory_format=torch.channels_last)
    groups = parameter_groups(
        head_parameters(module), part="head", lr=job.lr, weight_decay=training.weight_decay
    )
    if job.mode == "full":
        groups += parameter_groups(
            (parameter for _, parameter in backbone_parameters(module)),
            part="backbone",
            lr=job.lr * training.backbone_lr_scale,
            weight_decay=training.weight_decay,
        )
    state = TrainState(module, make_optimizer(groups))
    if job.run.last_checkpoint.is_file():
        state.load(job.run.last_checkpoint)
    datasets = job.datasets()
    loading = job.loading(device)
    spec = job.spec
    # A network without pretrained weights has no backbone that a new head could learn from.
    scratch = job.config.model.weights == "none"
    head_epochs = 0 if scratch else min(training.head_epochs, job.epochs - 1)
    material = PhotoMaterial(
        module,
        spec,
        datasets["train"],
        datasets["validation"],
        augment=augmentation(
            job.config.augmentation.augment or "none",
            spec,
            seed=loading.seed,
            overrides=job.config.recipe,
        ),
        frozen_epochs=job.epochs if job.mode == "head" else head_epochs,
        loading=loading,
    )
    plan = job.plan(head_epochs=head_epochs if job.mode == "full" else 0)
    finished = fit(state, material, plan, accelerator, listen=job.log, stop=stop)
    best = job.run.best_checkpoint
    tensors = load_file(best) if best.is_file() else module.state_dict()
    # A fresh network in plain fp32, as predict will open it.
    trained = rebuild(
        job.loaded.name,
        len(job.parts.labels),
        spec.size,
        {name: value.cpu() for name, value in tensors.items()},
    )
    trained = trained.to(device).eval()
    if device.type != "mps":
        trained = trained.to(memory_format=torch.channels_last)
    logits: dict[Part, NDArray[np.float32]] = {
        part: predict_dataset(
            trained,
            spec,
            photos,
            workers=loading.workers,
            progress=job.progress(f"Evaluating {part}"),
        )
        for part, photos in datasets.items()
        if part != "train" and len(photos)
    }
    return Outcome(module=trained, logits=logits, position=state.position, finished=finished)
