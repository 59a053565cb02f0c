"""Trains on augmented photos: the full network, or its head alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from finetune.augmentation.pipeline import augmentation
from finetune.data.on_device import near_device
from finetune.models.factory import rebuild
from finetune.photos.collection import Part
from finetune.runs.head_start import give_head, starts_from_features
from finetune.runs.job import Job
from finetune.runs.outcome import Outcome
from finetune.runs.thaw import growing_size, thaw_of
from finetune.training.batch_size import fit_in_memory
from finetune.training.compiling import prepare_speed
from finetune.training.events import Note
from finetune.training.interpolation import between, walk
from finetune.training.material import PhotoMaterial, Rhythm, predict_together
from finetune.training.objective import Objective
from finetune.training.state import save_tensors
from finetune.training.validation import calibrated_losses

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_on_photos(job: Job, accelerator: Accelerator, stop: Callable[[], bool]) -> Outcome:
    """Returns the network, trained from the job's photos as its mode says."""
    device = accelerator.device
    module = job.loaded.module.to(device)
    if device.type != "mps":
        module = module.to(memory_format=torch.channels_last)
    datasets = job.datasets()
    begins = starts_from_features(job)
    if begins and not job.run.last_checkpoint.is_file():
        give_head(job, accelerator, datasets)
        if job.team.is_main:
            save_tensors(job.run.start_checkpoint, module.state_dict(), {})
    job.team.same_tensors(module)
    if job.team.count > 1 and device.type == "cuda":
        # Each batch norm then sees the whole step; torch has it for CUDA alone.
        module = convert_sync_batchnorm(module)
    thaw = thaw_of(job, module)
    state = job.state(module, thaw.groups, accelerator.scaler)
    prepare_speed(module, job.config.machine, listen=job.listen)
    loading = job.loading(device)
    spec = job.spec
    material = PhotoMaterial(
        module,
        spec,
        near_device(datasets["train"], device),
        near_device(datasets["validation"], device),
        augment=augmentation(
            job.config.augmentation.augment or "none",
            spec,
            seed=loading.seed,
            overrides=job.config.recipe,
        ),
        rhythm=Rhythm(open=thaw.open, size=growing_size(job)),
        loading=loading,
    )
    plan = job.plan(head_epochs=thaw.head_epochs)
    finished = fit_in_memory(
        state, material, plan, accelerator, listen=job.log, stop=stop, team=job.team
    )
    best = job.run.best_checkpoint
    tensors = load_file(best) if best.is_file() else module.state_dict()
    share = None
    if begins and finished and job.config.optimization.final_weights == "interpolated":
        start = load_file(job.run.start_checkpoint)
        way = walk(start, tensors, judge_of(state.module, material, plan.objective))
        job.listen(Note(text=way.in_words()))
        tensors, share = between(start, tensors, way.share), way.share
    # A fresh network in plain fp32, as predict will open it.
    trained = rebuild(
        job.loaded.name,
        len(job.parts.labels),
        spec.size,
        {name: value.cpu() for name, value in tensors.items()},
        job.config.model_args,
    )
    trained = trained.to(device).eval()
    if device.type != "mps":
        trained = trained.to(memory_format=torch.channels_last)
    logits: dict[Part, NDArray[np.float32]] = {
        part: predict_together(
            trained, spec, photos, loading, progress=job.progress(f"Evaluating {part}")
        )
        for part, photos in datasets.items()
        if part != "train" and len(photos)
    }
    return Outcome(
        module=trained,
        logits=logits,
        position=state.position,
        finished=finished,
        share=share,
    )


def judge_of(
    module: nn.Module, material: PhotoMaterial, objective: Objective
) -> Callable[[dict[str, Tensor]], NDArray[np.float64]]:
    """Returns what weights of a network are worth: their calibrated losses on validation."""

    def judge(tensors: dict[str, Tensor]) -> NDArray[np.float64]:
        module.load_state_dict(tensors)
        return calibrated_losses(material.validate(), objective)

    return judge
